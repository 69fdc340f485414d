// A job request as a program would send it.

import { ROOT } from "../api.js";

/** With the SDK. */
export function asPython(request) {
  return `from upweight import Client

with Client("${location.origin}${ROOT}") as client:
    job = client.jobs.create(${python(request, 4)})
    result = client.jobs.result(client.jobs.wait(job))
`;
}

/** With a shell; a key, where the service wants one, stands in UPWEIGHT_API_KEY. */
export function asCurl(request) {
  const body = JSON.stringify(request, null, 2).replaceAll("'", "'\\''");
  return `curl -sS '${location.origin}${ROOT}/v1/jobs' \\
  -H "Authorization: Bearer $UPWEIGHT_API_KEY" -H 'Content-Type: application/json' \\
  -d '${body}'
`;
}

/** JSON as Python writes it. */
export function python(value, indent = 0) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = " ".repeat(indent + 4);
  if (Array.isArray(value)) return `[${value.map((each) => python(each, indent)).join(", ")}]`;
  const lines = Object.entries(value).map(([key, each]) => `${inner}${JSON.stringify(key)}: ${python(each, indent + 4)},\n`);
  return lines.length ? `{\n${lines.join("")}${" ".repeat(indent)}}` : "{}";
}
