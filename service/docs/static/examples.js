// Ours: puts into the document's examples what only the running service knows, so that each runs as it stands.
"use strict";

const digest = (digit) => `sha256:${digit.repeat(64)}`;
const job = (digit) => `job_${digit.repeat(26)}`;

/** The text of the OpenAPI document with ids and digests of the demo's things, where these are there. */
async function withExamples(root, text, key) {
  const found = await Promise.all([modelBlob(root, key), datasetBlob(root, key), jobs(root, key)]).catch(() => []);
  return found.flat().reduce((filled, [placeholder, value]) => (value ? filled.replaceAll(placeholder, value) : filled), text);
}

async function items(root, key, path) {
  const answer = await fetch(root + path, { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  return answer.ok ? (await answer.json()).items : [];
}

async function modelBlob(root, key) {
  const [model] = await items(root, key, "/v1/models?name=digits-mlp&state=ready&limit=1");
  return [[digest("0"), model?.program.blob]];
}

async function datasetBlob(root, key) {
  const [dataset] = await items(root, key, "/v1/datasets?name=digits-train&state=ready&limit=1");
  return [[digest("1"), dataset?.blobs?.[0]]];
}

async function jobs(root, key) {
  const ended = await items(root, key, "/v1/jobs?state=succeeded&limit=50");
  const keeps = (each, ...wanted) => wanted.every((what) => each.result?.stored.includes(what));
  const influences = ended.filter((each) => each.request.kind === "influences" && each.request.influence_type === "up");
  const best = influences.find((each) => keeps(each, "matrix", "factors")) ?? influences.find((each) => keeps(each, "matrix")) ?? ended[0];
  const itself = ended.find((each) => each.request.kind === "self_influences");
  const index = ended.find((each) => each.request.kind === "index");
  return [[job("0"), best?.id], [job("1"), itself?.id], [job("2"), index?.id]];
}
