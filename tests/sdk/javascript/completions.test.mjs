import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BadRequestError } from 'openai';
import { client, collect, model, refused } from './gateway.mjs';

const TEXT = 'one two three';
const create = (prompt, params = {}) => client.completions.create({ model, prompt, ...params });
const texts = (answer) => answer.choices.map((choice) => choice.text);

describe('completions', () => {
  test('a whole answer', async () => {
    const answer = await create(TEXT);
    assert.match(answer.id, /^cmpl-/);
    assert.equal(answer.object, 'text_completion');
    assert.deepEqual(texts(answer), [TEXT]);
    assert.equal(answer.choices[0].finish_reason, 'stop');
    assert.equal(answer.usage.prompt_tokens, TEXT.length);
  });

  for (const [kind, prompt, expected] of [
    ['text', 'ab', ['ab']],
    ['texts', ['ab', 'cd', 'é'], ['ab', 'cd', 'é']],
    ['tokens', [97, 98], ['ab']],
    ['lists of tokens', [[97, 98], [99]], ['ab', 'c']],
  ]) {
    test(`a prompt as ${kind}`, async () => {
      assert.deepEqual(texts(await create(prompt)), expected);
    });
    test(`a streamed answer to a prompt as ${kind}`, async () => {
      const said = expected.map(() => '');
      for (const chunk of await collect(create(prompt, { stream: true }))) {
        for (const choice of chunk.choices) said[choice.index] += choice.text;
      }
      assert.deepEqual(said, expected);
    });
  }

  test('several choices', async () => {
    assert.deepEqual(texts(await create(['ab', 'cd'], { n: 2 })), ['ab', 'ab', 'cd', 'cd']);
  });

  test('echo', async () => {
    assert.deepEqual(texts(await create('ab', { echo: true })), ['abab']);
    assert.deepEqual(texts(await create('ab', { echo: true, max_tokens: 0 })), ['ab']);
  });

  test('stop and limit', async () => {
    assert.deepEqual(texts(await create(TEXT, { stop: ' three' })), ['one two']);
    const cut = await create(TEXT, { max_tokens: 3 });
    assert.deepEqual([texts(cut), cut.choices[0].finish_reason], [['one'], 'length']);
  });

  test('usage at the end of a stream', async () => {
    const chunks = await collect(
      create(TEXT, { stream: true, stream_options: { include_usage: true } }),
    );
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.deepEqual(last.usage, (await create(TEXT)).usage);
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), TEXT);
  });

  test('log probabilities', async () => {
    const { logprobs } = (await create('ab', { logprobs: 2 })).choices[0];
    assert.deepEqual(logprobs.tokens.slice(0, 2), ['a', 'b']);
    assert.deepEqual(logprobs.text_offset.slice(0, 2), [0, 1]);
    assert.equal(logprobs.top_logprobs[0].a, logprobs.token_logprobs[0]);
  });

  for (const [prompt, params, param] of [
    ['', {}, 'prompt'],
    [['a', [1]], {}, 'prompt'],
    ['ab', { best_of: 3 }, 'best_of'],
    ['ab', { suffix: 'x' }, 'suffix'],
    ['ab', { max_tokens: 0 }, 'max_tokens'],
  ]) {
    test(`refused: ${JSON.stringify({ prompt, ...params })}`, async () => {
      await refused(create(prompt, params), BadRequestError, { param });
    });
  }
});
