// A list to choose from, with the keyboard too: arrows, Home, End; one choice at a time.

import { freshId, h } from "./dom.js";

/**
 * {element, add(items), choose(index), clear()}. An item is {content: elements, label: text}.
 * `onchoose(index)` is called when the user chooses, not when `choose` does.
 */
export function listbox(label, onchoose) {
  const element = h("ul", { class: "listbox", role: "listbox", tabindex: "0", "aria-label": label, onkeydown: keyed });
  let chosen = -1;

  function add(items) {
    for (const { content, label: text } of items) {
      const index = element.children.length;
      const option = h("li", { role: "option", id: freshId("option"), "aria-selected": "false", "aria-label": text, onclick: () => pick(index) }, content);
      element.append(option);
    }
  }

  function choose(index) {
    element.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = index;
    const option = element.children[index];
    if (!option) return element.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    element.setAttribute("aria-activedescendant", option.id);
    const above = option.offsetTop - element.scrollTop;
    if (above < 0 || above + option.offsetHeight > element.clientHeight) element.scrollTop += above - element.clientHeight / 3;
  }

  function pick(index) {
    if (index === chosen) return;
    choose(index);
    onchoose(index);
  }

  function keyed(event) {
    const last = element.children.length - 1;
    const steps = { ArrowDown: chosen + 1, ArrowRight: chosen + 1, ArrowUp: chosen - 1, ArrowLeft: chosen - 1, Home: 0, End: last };
    if (!(event.key in steps)) return;
    event.preventDefault();
    pick(Math.max(0, Math.min(last, steps[event.key])));
  }

  function clear() {
    element.replaceChildren();
    chosen = -1;
  }

  return { element, add, choose, clear };
}
