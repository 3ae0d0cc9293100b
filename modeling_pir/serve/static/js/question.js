// The question that the page shows, as the server wants it, and as the address bar holds it.

const LISTS = ["like", "unlike", "scene", "sensor", "only"];
const TEXTS = ["text", "without", "picture", "after", "before", "box"];
const FILTERS = ["scene", "sensor", "only", "after", "before", "box"];
export const STEP = 24; // images that are shown, and again with "Show more"
export const MOST = 480;

export const emptyQuestion = () => ({
  text: "", without: "", picture: "", like: [], unlike: [], scene: [], sensor: [], only: [], after: "", before: "", box: "", group: "place", k: STEP,
});

export const isAsked = (question) => Boolean(question.text || question.picture || question.like.length);

export const isFiltered = (question) => FILTERS.some((name) => question[name].length);

export function toAddress(question) {
  const pairs = new URLSearchParams();
  for (const name of TEXTS) if (question[name]) pairs.set(name, question[name]);
  for (const name of LISTS) for (const value of question[name]) pairs.append(name, value);
  if (question.group !== "place") pairs.set("group", question.group);
  if (question.k !== STEP) pairs.set("k", question.k);
  const text = pairs.toString();
  return text ? `?${text}` : "./";
}

export function fromAddress(address) {
  const pairs = new URLSearchParams(address);
  const question = emptyQuestion();
  for (const name of TEXTS) question[name] = pairs.get(name) || "";
  for (const name of LISTS) question[name] = pairs.getAll(name);
  if (pairs.get("group") === "none") question.group = "none";
  const k = Number(pairs.get("k"));
  if (Number.isInteger(k) && k >= 1 && k <= MOST) question.k = k;
  return question;
}
