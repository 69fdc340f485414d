// Ours: starts Swagger UI. A file of its own, so that the page's policy can forbid inline scripts.
"use strict";

const element = document.getElementById("swagger-ui");
const root = element.dataset.openapi.replace(/\/openapi\.json$/, "");
let text = "{}";

/** Once a key is given, the examples are what that key's namespace has. */
const examplesOfTheKey = () => ({
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (authorize) => (given) => {
          const done = authorize(given);
          fill(Object.values(given)[0]?.value);
          return done;
        },
      },
    },
  },
});

window.ui = SwaggerUIBundle({
  spec: {},
  domNode: element,
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  tryItOutEnabled: false,
  validatorUrl: null, // the default validates at a server on the internet
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [examplesOfTheKey],
  layout: "BaseLayout",
});

async function fill(key) {
  window.ui.specActions.updateSpec(await withExamples(root, text, key));
}

async function start() {
  text = await (await fetch(element.dataset.openapi)).text();
  window.ui.specActions.updateUrl(element.dataset.openapi);
  await fill();
}

start();
