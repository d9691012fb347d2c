import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BadRequestError } from 'openai';
import { client, gateway, model, refused } from './gateway.mjs';

const embed = (input, params = {}) =>
  client.embeddings.create({ model: gateway.embedder, input, ...params });
const vector = async (input, params) => (await embed(input, params)).data[0].embedding;

function assertNear(left, right) {
  assert.equal(left.length, right.length);
  for (const [index, value] of left.entries()) assert.ok(Math.abs(value - right[index]) < 1e-6);
}

describe('embeddings', () => {
  test('a text', async () => {
    const answer = await embed('The cat sat.');
    assert.equal(answer.object, 'list');
    assert.equal(answer.data[0].embedding.length, 384);
    assert.ok(Math.abs(Math.hypot(...answer.data[0].embedding) - 1) < 1e-5);
    assert.equal(answer.usage.prompt_tokens, 'The cat sat.'.length);
  });

  test('the default is as exact as floats', async () => {
    assertNear(await vector('abc'), await vector('abc', { encoding_format: 'float' }));
  });

  test('base64 is left alone if it is asked for', async () => {
    const encoded = await vector('abc', { encoding_format: 'base64' });
    const bytes = Buffer.from(encoded, 'base64');
    const floats = Array.from({ length: 384 }, (_, index) => bytes.readFloatLE(4 * index));
    assertNear(floats, await vector('abc'));
  });

  for (const [kind, input] of [
    ['a list', ['abc']],
    ['tokens', [97, 98, 99]],
    ['lists of tokens', [[97, 98, 99]]],
  ]) {
    test(`input as ${kind}`, async () => assertNear(await vector(input), await vector('abc')));
  }

  test('several texts keep their order', async () => {
    const inputs = ['one', 'zwei', 'три'];
    const { data } = await embed(inputs);
    assert.deepEqual(data.map((item) => item.index), [0, 1, 2]);
    for (const item of data) assertNear(item.embedding, await vector(inputs[item.index]));
  });

  test('fewer dimensions', async () => {
    assert.equal((await vector('abc', { dimensions: 8 })).length, 8);
  });

  for (const [input, params, param] of [
    ['', {}, 'input'],
    [[], {}, 'input'],
    ['abc', { dimensions: 385 }, 'dimensions'],
    ['abc', { encoding_format: 'text' }, 'encoding_format'],
    ['abc', { model }, 'model'],
  ]) {
    test(`refused: ${JSON.stringify({ input, ...params })}`, async () => {
      await refused(embed(input, params), BadRequestError, { param });
    });
  }
});
