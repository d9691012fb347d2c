// The same request as a program would send it.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Return a request as a curl command. */
export function asCurl(base, body, needsKey) {
  const lines = [`curl ${base}/v1/chat/completions`, "-H 'Content-Type: application/json'"];
  if (needsKey) lines.push('-H "Authorization: Bearer $VGATE_API_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  return `${lines.join(" \\\n  ")}\n`;
}

/** Return a value as Python writes it. */
function python(value, indent = "") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => `${deeper}${python(item, deeper)},\n`)
    : Object.entries(value).map(([name, item]) => `${deeper}${JSON.stringify(name)}: ${python(item, deeper)},\n`);
  if (!items.length) return isList ? "[]" : "{}";
  return `${isList ? "[" : "{"}\n${items.join("")}${indent}${isList ? "]" : "}"}`;
}

/** Return a request as a program with OpenAI's Python library. */
export function asPython(base, body, needsKey) {
  const { stream_options: _, ...rest } = body;
  const fields = Object.entries(rest).map(([name, value]) => `    ${name}=${python(value, "    ")},\n`).join("");
  const key = needsKey ? 'os.environ["VGATE_API_KEY"]' : '"unused"';
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key=${key})
stream = client.chat.completions.create(
${fields})
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
`;
}

/** Return a request as a program with OpenAI's JavaScript library. */
export function asJavaScript(base, body, needsKey) {
  const { stream_options: _, ...rest } = body;
  const key = needsKey ? "process.env.VGATE_API_KEY" : "'unused'";
  return `import OpenAI from 'openai';

const client = new OpenAI({ baseURL: '${base}/v1', apiKey: ${key} });
const stream = await client.chat.completions.create(${JSON.stringify(rest, null, 2)});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? '');
}
`;
}
