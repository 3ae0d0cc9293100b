// What the server is asked. A refusal is thrown as an Error whose message is the server's sentence.

async function answered(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new Error("The server does not answer: start pir serve again and reload this page.");
  }
  if (response.ok) return response;
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error || sentence;
  } catch {
    // not JSON: what a proxy in between says is not for a reader
  }
  throw new Error(sentence);
}

const asJson = (body) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

export const loadArchive = async () => (await answered(fetch("api/archive"))).json();

export const search = async (question, signal) =>
  (await answered(fetch("api/search", { ...asJson(question), signal }))).json();

export const saved = async (question, format) =>
  (await answered(fetch(`api/search?format=${format}`, asJson(question)))).blob();

export const sendPicture = async (file) =>
  (await (await answered(fetch("api/pictures", { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file }))).json()).picture;

export const loadBelief = async (id) => (await answered(fetch(`api/rows/${id}/belief`))).json();

export const loadOcclusion = async (id, text) =>
  (await answered(fetch(`api/rows/${id}/occlusion?${new URLSearchParams({ text })}`))).json();

export const rankSentences = async (row, sentences) => (await answered(fetch("api/rank", asJson({ row, sentences })))).json();

export const thumbnail = (id) => `api/rows/${id}/small.jpg`;
export const largePicture = (id) => `api/rows/${id}/large.jpg`;
export const pictureFile = (id) => `api/rows/${id}/image.png`;
export const sentPicture = (name) => `api/pictures/${name}`;
