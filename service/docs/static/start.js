// Ours: starts Swagger UI. A file of its own, so that the page's policy can forbid inline scripts.
"use strict";

const element = document.getElementById("swagger-ui");

window.ui = SwaggerUIBundle({
  url: element.dataset.openapi,
  domNode: element,
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  tryItOutEnabled: false,
  validatorUrl: null, // the default validates at a server on the internet
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
