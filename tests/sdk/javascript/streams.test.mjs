import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ask, collect, model, textOf } from './gateway.mjs';

const stream = (text, params = {}) => collect(ask(text, { stream: true, ...params }));

describe('streams', () => {
  test('the chunks of one answer', async () => {
    const chunks = await stream('Good morning');
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk'));
    assert.ok(chunks.every((chunk) => chunk.model === model));
    assert.equal(chunks[0].choices[0].delta.role, 'assistant');
    assert.equal(textOf(chunks), 'Good morning');
    const reasons = chunks.map((chunk) => chunk.choices[0].finish_reason);
    assert.equal(reasons.pop(), 'stop');
    assert.ok(reasons.every((reason) => reason === null));
  });

  test('usage at the end', async () => {
    const chunks = await stream('hi', { stream_options: { include_usage: true } });
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.deepEqual(last.usage, (await ask('hi')).usage);
    assert.ok(chunks.every((chunk) => chunk.usage === null));
  });

  test('no usage unless it is asked for', async () => {
    for (const chunk of await stream('hi')) assert.equal(chunk.usage ?? null, null);
  });

  test('several choices', async () => {
    const chunks = await stream('Good morning', { n: 3 });
    assert.deepEqual([0, 1, 2].map((index) => textOf(chunks, index)), Array(3).fill('Good morning'));
  });

  test('the limit', async () => {
    const chunks = await stream('Good morning', { max_completion_tokens: 4 });
    assert.equal(textOf(chunks), 'Good');
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
  });

  test('stop strings', async () => {
    assert.equal(textOf(await stream('one two three', { stop: [' three', 'x'] })), 'one two');
  });

  test('reasoning comes first', async () => {
    const deltas = (await stream('<think>Hm.</think>42')).map((chunk) => chunk.choices[0].delta);
    assert.equal(deltas.map((delta) => delta.reasoning_content ?? '').join(''), 'Hm.');
    assert.equal(deltas.map((delta) => delta.content ?? '').join(''), '42');
    const begun = deltas.findIndex((delta) => delta.content);
    assert.ok(deltas.slice(begun).every((delta) => !delta.reasoning_content));
  });

  test('log probabilities', async () => {
    const chunks = await stream('abc', { logprobs: true, top_logprobs: 1 });
    const tokens = chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []);
    const whole = (await ask('abc', { logprobs: true, top_logprobs: 1 })).choices[0].logprobs;
    assert.deepEqual(tokens, whole.content);
  });

  test('a stream can be split in two', async () => {
    const [left, right] = (await ask('Good morning', { stream: true })).tee();
    assert.equal(textOf(await collect(left)), 'Good morning');
    assert.equal(textOf(await collect(right)), 'Good morning');
  });

  test('a stream as lines of JSON', async () => {
    const readable = (await ask('hi', { stream: true })).toReadableStream();
    const lines = (await new Response(readable).text()).trim().split('\n');
    assert.equal(textOf(lines.map((line) => JSON.parse(line))), 'hi');
  });
});
