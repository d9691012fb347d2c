// The endpoints and their requests, read from /openapi.json.

import * as api from "./api.js";
import { copyButton, fill, h, marked, notice } from "./dom.js";

const MAX_DEPTH = 4;
const GROUPS = [
  ["Generate", /^\/v1\/(chat|completions|responses|messages|embeddings)/],
  ["Models and tokens", /^\/(v1\/models|tokenize|detokenize|tokenizer)/],
  ["Keys and requests", /^\/(admin|v1\/usage)/],
  ["Operate", /./],
];
const POLICIES = {
  accepted: "accepted, without effect",
  ignored: "ignored, and named in x-vgate-ignored",
  refused: "refused",
};

const main = document.getElementById("main");

async function show() {
  let api_;
  try {
    api_ = await api.call("/openapi.json");
  } catch (error) {
    fill(main, notice(error.message, error.status === 401 ? "Enter a key at the page's Key button (in Now), in this tab." : error.help));
    return;
  }
  const schemas = api_.components.schemas;
  let operations = Object.entries(api_.paths).flatMap(([path, item]) => Object.entries(item)
    .filter(([method]) => !["parameters", "head"].includes(method))
    .map(([method, operation]) => ({ path, method, ...operation, parameters: [...(item.parameters ?? []), ...(operation.parameters ?? [])] })));
  // A stream is taken up again by GET, with what POST says of it.
  const alike = (a, b) => a.method === "get" && b.method === "post" && a.path === b.path && a.summary === b.summary;
  operations = operations.filter((operation) => !operations.some((other) => alike(operation, other)));
  const rest = new Set(operations);
  const groups = GROUPS.map(([name, pattern]) => {
    const found = [...rest].filter((operation) => pattern.test(operation.path));
    found.forEach((operation) => rest.delete(operation));
    return [name, found];
  }).filter(([, found]) => found.length);
  const search = h("input", { type: "search", placeholder: "Find a path or a field", "aria-label": "Find a path or a field" });
  const sections = new Map(operations.map((operation) => [operation, operationElement(operation, schemas)]));
  const links = new Map(operations.map((operation) => [operation, h("a", { href: `#${idOf(operation)}` }, h("span", { class: `method ${operation.method}` }, operation.method), operation.path)]));
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const [operation, section] of sections) {
      const isFound = !wanted || section.textContent.toLowerCase().includes(wanted);
      section.hidden = links.get(operation).hidden = !isFound;
    }
  });
  fill(main,
    h("nav", { class: "contents", "aria-label": "Endpoints" }, search,
      groups.map(([name, found]) => [h("h2", { class: "small-head" }, name), found.map((operation) => links.get(operation))])),
    h("div", { class: "operations" },
      h("h1", {}, "API"),
      h("p", { class: "faint" }, `V-Gate ${api_.info.version}, at `, h("code", {}, api.base), " ", copyButton(() => api.base)),
      groups.map(([name, found]) => [h("h2", {}, name), found.map((operation) => sections.get(operation))])));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

const idOf = ({ method, path }) => `${method}${path.replaceAll(/[^a-z0-9]+/gi, "-")}`;

function operationElement(operation, schemas) {
  const { method, path, summary, parameters, requestBody } = operation;
  const schema = requestBody?.content["application/json"].schema;
  const choices = schema ? (schema.anyOf ?? [schema]) : [];
  return h("section", { class: "card operation", id: idOf(operation), "aria-label": `${method} ${path}` },
    h("h3", {}, h("span", { class: `method ${method}` }, method), h("code", {}, path)),
    h("p", {}, marked(summary)),
    parameters.length ? fieldTable(parameters.map((parameter) => [parameter.name, { ...parameter.schema, description: parameter.description ?? `in the ${parameter.in}` }, parameter.required])) : null,
    choices.map((choice) => {
      const name = nameOf(choice);
      return [h("p", { class: "faint" }, "Body: ", h("b", {}, name ?? "JSON")), schemaElement(choice, schemas, 0)];
    }));
}

const nameOf = (schema) => schema.$ref?.split("/").at(-1);
const resolved = (schema, schemas) => (schema.$ref ? schemas[nameOf(schema)] : schema);

/** Return the fields of an object, those without effect in a part of their own. */
function schemaElement(schema, schemas, depth) {
  const { properties = {}, required = [] } = resolved(schema, schemas) ?? {};
  const fields = Object.entries(properties).map(([name, field]) => [name, field, required.includes(name)]);
  const served = fields.filter(([, field]) => !(field["x-vgate-policy"] in POLICIES));
  const others = fields.filter(([, field]) => field["x-vgate-policy"] in POLICIES);
  served.sort((a, b) => Number(b[2]) - Number(a[2]));
  return [
    fieldTable(served, schemas, depth),
    others.length ? h("details", {}, h("summary", {}, `${others.length} fields without effect, or refused`), fieldTable(others, schemas, depth)) : null,
  ];
}

function fieldTable(fields, schemas, depth = 0) {
  return h("dl", { class: "fields" }, fields.map(([name, field, isRequired]) => h("div", {},
    h("dt", {}, h("code", {}, name), isRequired ? h("span", { class: "pill busy" }, "required") : null),
    h("dd", {}, h("span", { class: "type" }, typeOf(field, schemas)),
      field.default !== null && field.default !== undefined ? h("span", { class: "faint" }, ` default ${JSON.stringify(field.default)}`) : null,
      POLICIES[field["x-vgate-policy"]] ? h("span", { class: "faint" }, ` ${POLICIES[field["x-vgate-policy"]]}`) : null,
      field.description ? h("p", {}, marked(field.description)) : null,
      depth < MAX_DEPTH ? nestedIn(field, schemas).map((inner) => h("details", { ontoggle: (event) => expand(event.target, inner, schemas, depth + 1) }, h("summary", {}, nameOf(inner)))) : null))));
}

/** Fill a part when it is first opened: requests refer to themselves. */
function expand(details, schema, schemas, depth) {
  if (details.open && details.children.length === 1) details.append(...schemaElement(schema, schemas, depth).filter(Boolean));
}

/** Return the references to objects with fields in a schema. */
function nestedIn(schema, schemas) {
  if (!schemas) return [];
  if (schema.$ref) return resolved(schema, schemas)?.properties ? [schema] : nestedIn(resolved(schema, schemas) ?? {}, schemas);
  return [...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.items ? [schema.items] : [])].flatMap((inner) => nestedIn(inner, schemas));
}

/** Return a type and its bounds in words. */
function typeOf(schema, schemas) {
  if (schema.$ref) return nameOf(schema);
  const choices = (schema.anyOf ?? schema.oneOf)?.filter((choice) => choice.type !== "null");
  if (choices) return choices.map((choice) => typeOf(choice, schemas)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const large = (value) => Math.abs(value) >= 2 ** 31 - 1;
  const bounds = [
    schema.minimum !== undefined && !large(schema.minimum) && `≥ ${schema.minimum}`,
    schema.exclusiveMinimum !== undefined && `> ${schema.exclusiveMinimum}`,
    schema.maximum !== undefined && !large(schema.maximum) && `≤ ${schema.maximum}`,
    schema.maxLength !== undefined && `up to ${schema.maxLength} characters`,
    schema.maxItems !== undefined && `up to ${schema.maxItems}`,
  ].filter(Boolean).join(", ");
  const type = schema.type === "array" ? `list of ${schema.items ? typeOf(schema.items, schemas) : "anything"}` : (schema.type ?? "anything");
  return bounds ? `${type} (${bounds})` : type;
}

show();
