import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BadRequestError } from 'openai';
import { ask, collect, refused, textOf } from './gateway.mjs';

const schema = {
  type: 'object',
  properties: { name: { type: 'string' }, age: { type: 'integer' } },
  required: ['name', 'age'],
  additionalProperties: false,
};
const json_schema = { name: 'person', schema, strict: true };
const said = async (text, params) => (await ask(text, params)).choices[0].message.content;

describe('forms', () => {
  test('a JSON object', async () => {
    const response_format = { type: 'json_object' };
    assert.deepEqual(JSON.parse(await said('{"a": [1]}', { response_format })), { a: [1] });
    assert.equal(typeof JSON.parse(await said('no JSON', { response_format })), 'object');
  });

  test('a JSON schema', async () => {
    const response_format = { type: 'json_schema', json_schema };
    const person = { name: 'Jürgen', age: 7 };
    assert.deepEqual(JSON.parse(await said(JSON.stringify(person), { response_format })), person);
    const made = JSON.parse(await said('x', { response_format }));
    assert.deepEqual(Object.keys(made).sort(), ['age', 'name']);
  });

  test('a streamed JSON schema', async () => {
    const response_format = { type: 'json_schema', json_schema };
    const text = textOf(await collect(ask('x', { response_format, stream: true })));
    assert.deepEqual(Object.keys(JSON.parse(text)).sort(), ['age', 'name']);
  });

  test("vLLM's structured outputs", async () => {
    const structured_outputs = { choice: ['yes', 'no'] };
    assert.equal(await said('no', { structured_outputs }), 'no');
    assert.equal(await said('perhaps', { structured_outputs }), 'yes');
  });

  for (const [params, param] of [
    [{ response_format: { type: 'xml' } }, 'response_format.type'],
    [{ response_format: { type: 'json_schema' } }, 'response_format.json_schema'],
    [{ structured_outputs: {} }, 'structured_outputs'],
  ]) {
    test(`refused: ${JSON.stringify(params)}`, async () => {
      await refused(ask('hi', params), BadRequestError, { param });
    });
  }
});
