import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BadRequestError } from 'openai';
import { ask, call, client, collect, model, refused, tools, user, weather } from './gateway.mjs';

const named = { type: 'function', function: { name: 'get_weather' } };

// The calls of an answer, whole or put together from a stream.
async function said(text, { stream = false, ...params } = {}) {
  const answer = await ask(text, { tools, stream, ...params });
  if (!stream) {
    const [choice] = answer.choices;
    const calls = (choice.message.tool_calls ?? []).map((toolCall) => [
      toolCall.function.name,
      JSON.parse(toolCall.function.arguments),
    ]);
    return { content: choice.message.content ?? '', calls, reason: choice.finish_reason };
  }
  const parts = [];
  let content = '';
  let reason = null;
  for (const chunk of await collect(answer)) {
    const [choice] = chunk.choices;
    content += choice.delta.content ?? '';
    reason = choice.finish_reason ?? reason;
    for (const part of choice.delta.tool_calls ?? []) {
      if (part.id !== undefined) {
        assert.equal(part.index, parts.length);
        parts.push({ name: part.function.name, text: '' });
      }
      parts[part.index].text += part.function.arguments ?? '';
    }
  }
  return { content, calls: parts.map(({ name, text }) => [name, JSON.parse(text)]), reason };
}

describe('tools', () => {
  for (const stream of [false, true]) {
    const how = stream ? ', streamed' : '';

    test(`a call${how}`, async () => {
      const { content, calls, reason } = await said(call('get_weather', { city: 'Köln', days: 2 }), {
        stream,
      });
      assert.deepEqual(calls, [['get_weather', { city: 'Köln', days: 2 }]]);
      assert.equal(content, '');
      assert.equal(reason, 'tool_calls');
    });

    test(`parallel calls${how}`, async () => {
      const text = `${call('get_weather', { city: 'Ulm' })}\n${call('get_time', { zone: 'CET' })}`;
      const { calls } = await said(text, { stream });
      assert.deepEqual(calls, [['get_weather', { city: 'Ulm' }], ['get_time', { zone: 'CET' }]]);
      const first = await said(text, { stream, parallel_tool_calls: false });
      assert.deepEqual(first.calls, [['get_weather', { city: 'Ulm' }]]);
    });

    test(`no call${how}`, async () => {
      const { content, calls, reason } = await said('Good morning', { stream });
      assert.deepEqual([content, calls, reason], ['Good morning', [], 'stop']);
    });

    test(`tool_choice none${how}`, async () => {
      const text = call('get_weather', { city: 'Ulm' });
      const { content, calls } = await said(text, { stream, tool_choice: 'none' });
      assert.deepEqual([content, calls], [text, []]);
    });

    test(`tool_choice required${how}`, async () => {
      const { calls, reason } = await said('no call', {
        stream,
        tools: [weather],
        tool_choice: 'required',
      });
      assert.equal(calls[0][0], 'get_weather');
      assert.equal(typeof calls[0][1].city, 'string');
      assert.equal(reason, 'tool_calls');
    });

    test(`a named tool${how}`, async () => {
      const { calls } = await said('{"city": "Ulm"}', { stream, tool_choice: named });
      assert.deepEqual(calls, [['get_weather', { city: 'Ulm' }]]);
    });
  }

  test('a round trip', async () => {
    const messages = user(call('get_weather', { city: 'Köln' }));
    const first = await client.chat.completions.create({ model, messages, tools });
    const { message } = first.choices[0];
    messages.push(message);
    for (const { id } of message.tool_calls) {
      messages.push({ role: 'tool', tool_call_id: id, content: '18 °C and sunny' });
    }
    const second = await client.chat.completions.create({ model, messages, tools });
    assert.equal(second.choices[0].message.content, '18 °C and sunny');
  });

  for (const [params, param] of [
    [{ tools: undefined, tool_choice: 'required' }, 'tool_choice'],
    [{ tool_choice: { type: 'function', function: { name: 'x' } } }, 'tool_choice.function.name'],
    [{ functions: [{ name: 'x' }] }, 'functions'],
  ]) {
    test(`refused: ${JSON.stringify(params)}`, async () => {
      await refused(ask('hi', { tools, ...params }), BadRequestError, { param });
    });
  }
});
