// Starts the page: which view an address means, and what all views share.

import { announce, h, replace } from "./dom.js";
import { here } from "./router.js";
import { askForKey, key } from "./session.js";
import { startTheme } from "./theme.js";
import { watchHealth } from "./health.js";
import { failure } from "./failure.js";
import * as jobs from "./views/jobs.js";
import * as job from "./views/job.js";
import * as records from "./views/records.js";
import * as record from "./views/record.js";
import * as compare from "./views/compare.js";
import * as indexes from "./views/indexes.js";
import * as newJob from "./views/new-job.js";

const main = document.getElementById("main");
const keyButton = document.getElementById("key-button");
let shown = null; // {view, opened, abort}
let asking = false;

function viewOf({ parts }) {
  if (parts[0] === "jobs") return parts.length === 1 ? jobs : job;
  if (parts[0] === "models" || parts[0] === "datasets") return parts.length === 1 ? records : record;
  if (parts[0] === "indexes") return indexes;
  if (parts[0] === "compare") return compare;
  return parts[0] === "new" ? newJob : null;
}

async function show() {
  const route = here();
  const view = viewOf(route);
  markNavigation(route);
  if (shown?.view === view && shown.place === route.parts[0] && (await shown.opened?.update?.(route))) return;
  leave();
  const abort = new AbortController();
  const mine = { view, place: route.parts[0], opened: null, abort };
  shown = mine;
  if (view === null) {
    replace(main, h("div", { class: "empty" }, h("h1", {}, "No such page"), h("p", {}, h("a", { href: "#/jobs" }, "To the jobs"))));
    return;
  }
  const late = setTimeout(() => replace(main, h("p", { class: "loading" }, "Loading …")), 250);
  try {
    const opened = await view.open(route, { signal: abort.signal, reopen });
    if (shown !== mine) return opened.close?.();
    mine.opened = opened;
    document.title = `${opened.title} · Upweight`;
    replace(main, opened.element);
    announce(opened.title);
  } catch (error) {
    if (shown === mine && error.name !== "AbortError") complain(error);
  } finally {
    clearTimeout(late);
  }
}

function leave() {
  shown?.abort.abort();
  shown?.opened?.close?.();
  shown = null;
}

function reopen() {
  leave();
  return show();
}

/** A failed view: asks for the key where that is what is missing, else says what to do. */
export async function complain(error) {
  replace(main, failure(error, reopen));
  if (error.status !== 401 || asking) return;
  asking = true;
  const given = await askForKey(key() ? "This key is not known to the service, or has been revoked." : "The service wants a key.");
  asking = false;
  markKey();
  if (given) reopen();
}

function markNavigation({ parts }) {
  for (const each of document.querySelectorAll("[data-nav]")) {
    if (each.dataset.nav === parts[0]) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

function markKey() {
  keyButton.textContent = key() ? "Key ●" : "Key";
  keyButton.setAttribute("aria-label", key() ? "API key: given for this tab. Change." : "API key: none. Give one.");
}

keyButton.addEventListener("click", async () => {
  const given = await askForKey();
  markKey();
  if (given) reopen();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the router's
  main.focus();
});
startTheme(document.getElementById("theme-button"));
markKey();
watchHealth(document.getElementById("banner"));
addEventListener("hashchange", show);
show();
