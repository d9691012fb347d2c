// The settings of each program of docs/clients.md, for this server.

import * as api from "./api.js";
import { copyButton, field, fill, h, marked, notice } from "./dom.js";

// What stands for the server in docs/clients.md.
const ADDRESS = "http://127.0.0.1:8000";

export function connectView(main) {
  show(main);
  return { retry: () => show(main) };
}

async function show(main) {
  const place = h("div");
  fill(main, h("div", { class: "view-head" }, h("h1", {}, "Connect")), place);
  const groups = await (await fetch(new URL("clients.json", import.meta.url))).json();
  let models = [];
  try {
    models = await api.models();
  } catch (error) {
    place.append(notice(error.message, `${error.help} The settings below name no model until then.`));
  }
  const choice = h("select", {}, (models.length ? models.map((card) => card.id) : ["my-model"]).map((name) => h("option", { value: name }, name)));
  const search = h("input", { type: "search", placeholder: "Codex, LangChain, …" });
  const list = h("div", { class: "clients" });
  const draw = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = groups.map((group) => ({ ...group, clients: group.clients.filter((client) => client.name.toLowerCase().includes(wanted)) }));
    fill(list, found.filter((group) => group.clients.length).map((group) => [
      h("h2", { class: "small-head" }, group.name), group.clients.map((client) => clientCard(client, choice.value, models))]));
  };
  search.addEventListener("input", draw);
  choice.addEventListener("change", draw);
  place.append(
    h("section", { class: "card" }, h("dl", { class: "pairs apart" },
      endpoint("OpenAI's API", `${api.base}/v1`), endpoint("Anthropic's API", api.base)),
    h("div", { class: "two" }, field("Model", choice), field("Find a program", search)),
    h("p", { class: "faint" }, api.key() ? "Where a key is needed, YOUR_KEY stands for it." : "Without keys, any text is a key.")),
    list);
  draw();
}

const endpoint = (name, address) => h("div", {}, h("dt", {}, name), h("dd", { class: "with-copy" }, h("code", {}, address), copyButton(() => address)));

function clientCard(client, model, models) {
  return h("section", { class: "card client", "aria-label": client.name },
    h("h3", {}, client.name),
    client.parts.map((part) => (part.text ? h("p", {}, marked(part.text)) : codeBlock(part.language, adapted(part.code, model, models)))));
}

function codeBlock(language, code) {
  return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language), copyButton(() => code)), h("pre", { tabindex: "0" }, h("code", {}, code)));
}

/** Return a text with this server's address, model and key in place of the examples'. */
export function adapted(text, model, models) {
  // Another name of the same model, such as an alias, embeds no more than it does.
  const root = models.find((card) => card.id === model)?.root;
  const embedder = models.find((card) => card.root !== root)?.id ?? "my-embedder";
  const own = text.replaceAll(ADDRESS, api.base).replaceAll("my-model", model).replaceAll("my-embedder", embedder);
  return api.key() ? own.replaceAll("unused", "YOUR_KEY") : own;
}
