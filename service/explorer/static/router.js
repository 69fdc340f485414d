// Addresses behind the `#`: /jobs, /jobs/ID, /jobs/ID/test/3, each with a query.

/** {parts: ["jobs", "job_…", "test", "3"], query: {state: "failed"}} */
export function here() {
  const [address, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = address.split("/").filter(Boolean).map(decodeURIComponent);
  return { parts: parts.length ? parts : ["jobs"], query: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(parts, query = {}) {
  const chosen = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = chosen.length ? `?${new URLSearchParams(chosen)}` : "";
  return `#/${parts.map((part) => encodeURIComponent(part)).join("/")}${text}`;
}

export function go(parts, query) {
  location.hash = link(parts, query);
}

/** Changes the address without a new entry in the history, and lets the page follow. */
export function replaceWith(parts, query) {
  history.replaceState(null, "", link(parts, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}
