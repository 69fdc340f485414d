// The key: asked for when the service wants one, kept in this tab's session and nowhere else.

import { h } from "./dom.js";

const NAME = "upweight-key";

export function key() {
  return sessionStorage.getItem(NAME);
}

/** Asks for the key; `why` is shown above the field. Resolves to whether one was given. */
export function askForKey(why) {
  const input = h("input", { type: "password", name: "key", autocomplete: "off", spellcheck: "false", placeholder: "uwk_…", "aria-describedby": "key-help" });
  const forget = h("button", { type: "button", class: "quiet", onclick: () => finish("") }, "Forget the key");
  const cancel = h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel");
  const form = h(
    "form",
    { method: "dialog", onsubmit: (event) => { event.preventDefault(); finish(input.value.trim()); } },
    h("h2", {}, "Key"),
    why ? h("p", { class: "note bad" }, why) : null,
    h("label", { class: "field" }, h("span", {}, "API key"), input),
    h("p", { id: "key-help", class: "help" }, "Kept in this tab until it is closed. A service without keys needs none. ",
      "A new one: ", h("code", {}, "upweight keys create --name laptop --role write")),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Use this key"), key() ? forget : null, cancel),
  );
  const dialog = h("dialog", { "aria-label": "Key" }, form);
  let given = false;

  function finish(text) {
    if (text) sessionStorage.setItem(NAME, text);
    else sessionStorage.removeItem(NAME);
    given = true;
    dialog.close();
  }

  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
  });
}
