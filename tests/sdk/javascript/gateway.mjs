// The instance under test, and what the suites send. The engine answers with the last message.

import assert from 'node:assert/strict';
import OpenAI from 'openai';

export const gateway = JSON.parse(process.env.SDK_SUITE);
export const { model } = gateway;

export const client = new OpenAI({
  baseURL: `${gateway.url}/v1`,
  apiKey: 'unused',
  maxRetries: 0,
  timeout: 60_000,
});

export const guarded = (apiKey, options = {}) =>
  new OpenAI({ baseURL: `${gateway.guardedUrl}/v1`, apiKey, maxRetries: 0, ...options });

export const user = (content) => [{ role: 'user', content }];

export const call = (name, args) =>
  `<tool_call>${JSON.stringify({ name, arguments: args })}</tool_call>`;

export const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string' }, days: { type: 'integer' } },
      required: ['city'],
      additionalProperties: false,
    },
  },
};
export const time = {
  type: 'function',
  function: {
    name: 'get_time',
    parameters: { type: 'object', properties: { zone: { type: 'string' } } },
  },
};
export const tools = [weather, time];

export const ask = (content, params = {}) =>
  client.chat.completions.create({ model, messages: user(content), ...params });

export async function collect(stream) {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
}

export const textOf = (chunks, index = 0) =>
  chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === index)
    .map((choice) => choice.delta.content ?? '')
    .join('');

export async function refused(promise, kind, expected = {}) {
  let error;
  try {
    const result = await promise;
    if (result?.[Symbol.asyncIterator]) await collect(result);
  } catch (caught) {
    error = caught;
  }
  assert.ok(error instanceof kind, `expected ${kind.name}, got ${error?.stack ?? 'no error'}`);
  for (const [name, value] of Object.entries(expected)) assert.deepEqual(error[name], value, name);
  return error;
}

export async function until(condition, what) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`not within 10 s: ${what}`);
}

export async function engine(url = gateway.url, headers = {}) {
  return (await (await fetch(`${url}/stats`, { headers })).json()).engines[0];
}

export const idle = () => until(async () => (await engine()).running === 0, 'the engine is idle');
export const busy = () => until(async () => (await engine()).running > 0, 'the engine runs');
