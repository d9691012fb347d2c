import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BadRequestError, NotFoundError } from 'openai';
import { call, client, collect, model, refused, weather } from './gateway.mjs';

const create = (input, params = {}) => client.responses.create({ model, input, ...params });
const tool = { type: 'function', strict: true, ...weather.function };

describe('responses', () => {
  test('a text', async () => {
    const answer = await create('Good morning');
    assert.match(answer.id, /^resp_/);
    assert.equal(answer.status, 'completed');
    assert.equal(answer.output_text, 'Good morning');
    assert.equal(answer.usage.output_tokens, 'Good morning'.length + 1);
  });

  test('a conversation', async () => {
    const answer = await create(
      [
        { role: 'user', content: 'Hello' },
        { role: 'assistant', content: 'Hi.' },
        { role: 'user', content: [{ type: 'input_text', text: 'and now?' }] },
      ],
      { instructions: 'Be brief.', store: false },
    );
    assert.equal(answer.output_text, 'and now?');
  });

  test('an answer can be sent back', async () => {
    const first = await create('Good morning');
    const answer = await create([...first.output, { role: 'user', content: 'again' }]);
    assert.equal(answer.output_text, 'again');
  });

  test('a stream', async () => {
    const events = await collect(create('Good morning', { stream: true }));
    assert.equal(events[0].type, 'response.created');
    assert.equal(events.at(-1).type, 'response.completed');
    assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
    const deltas = events.filter((event) => event.type === 'response.output_text.delta');
    assert.equal(deltas.map((event) => event.delta).join(''), 'Good morning');
  });

  test('the stream helper', async () => {
    const stream = client.responses.stream({ model, input: 'Good morning' });
    const deltas = [];
    stream.on('response.output_text.delta', (event) => deltas.push(event.delta));
    assert.equal((await stream.finalResponse()).output_text, 'Good morning');
    assert.equal(deltas.join(''), 'Good morning');
  });

  test('the limit', async () => {
    const answer = await create('Good morning', { max_output_tokens: 4 });
    assert.equal(answer.status, 'incomplete');
    assert.equal(answer.incomplete_details.reason, 'max_output_tokens');
  });

  test('a tool round trip', async () => {
    const input = [{ role: 'user', content: call('get_weather', { city: 'Ulm' }) }];
    const [item] = (await create(input, { tools: [tool] })).output;
    assert.equal(item.type, 'function_call');
    assert.deepEqual(JSON.parse(item.arguments), { city: 'Ulm' });
    const output = { type: 'function_call_output', call_id: item.call_id, output: 'sunny' };
    assert.equal((await create([...input, item, output], { tools: [tool] })).output_text, 'sunny');
  });

  test('reasoning', async () => {
    const answer = await create('<think>Hm.</think>42');
    assert.deepEqual(answer.output.map((item) => item.type), ['reasoning', 'message']);
    assert.equal(answer.output_text, '42');
  });

  for (const [params, param] of [
    [{ previous_response_id: 'resp_1' }, 'previous_response_id'],
    [{ background: true }, 'background'],
  ]) {
    test(`refused: ${JSON.stringify(params)}`, async () => {
      await refused(create('hi', params), BadRequestError, { param });
    });
  }

  test('a stored response', async () => {
    const { id } = await create('hi');
    assert.equal((await client.responses.retrieve(id)).output_text, 'hi');
    assert.equal((await create('ho', { previous_response_id: id })).previous_response_id, id);
    await client.responses.delete(id);
    await refused(client.responses.retrieve(id), NotFoundError);
  });

  test('one that is not stored', async () => {
    const { id } = await create('hi', { store: false });
    await refused(client.responses.retrieve(id), NotFoundError);
  });
});
