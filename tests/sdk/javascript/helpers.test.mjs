import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LengthFinishReasonError } from 'openai/error';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { busy, call, client, collect, idle, model, tools, user } from './gateway.mjs';

const Person = z.object({ name: z.string(), age: z.number().int(), note: z.string().nullable() });
const PERSON = { name: 'Jürgen', age: 7, note: null };
const format = zodResponseFormat(Person, 'person');
const { completions } = client.chat;

describe('helpers', () => {
  test('parse gives the object', async () => {
    const messages = user(JSON.stringify(PERSON));
    const parsed = await completions.parse({ model, messages, response_format: format });
    assert.deepEqual(parsed.choices[0].message.parsed, PERSON);
  });

  test('parse follows the schema whatever the model would say', async () => {
    const parsed = await completions.parse({ model, messages: user('x'), response_format: format });
    assert.deepEqual(Object.keys(parsed.choices[0].message.parsed).sort(), ['age', 'name', 'note']);
  });

  test('parse of an answer that was cut', async () => {
    const messages = user(JSON.stringify(PERSON));
    const cut = completions.parse({ model, messages, response_format: format, max_tokens: 5 });
    await assert.rejects(cut, LengthFinishReasonError);
  });

  test('parse gives typed tool calls', async () => {
    const getWeather = zodFunction({
      name: 'get_weather',
      parameters: z.object({ city: z.string() }),
    });
    const messages = user(call('get_weather', { city: 'Köln' }));
    const parsed = await completions.parse({ model, messages, tools: [getWeather] });
    const [toolCall] = parsed.choices[0].message.tool_calls;
    assert.deepEqual(toolCall.function.parsed_arguments, { city: 'Köln' });
  });

  test('stream tells what is said', async () => {
    const deltas = [];
    const runner = completions.stream({ model, messages: user('Good morning') });
    runner.on('content', (delta) => deltas.push(delta));
    assert.equal(await runner.finalContent(), 'Good morning');
    assert.equal(deltas.join(''), 'Good morning');
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, 'stop');
    assert.equal((await runner.finalMessage()).role, 'assistant');
  });

  test('stream can be iterated', async () => {
    const chunks = await collect(completions.stream({ model, messages: user('hi') }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), 'hi');
  });

  test('stream parses', async () => {
    const messages = user(JSON.stringify(PERSON));
    const runner = completions.stream({ model, messages, response_format: format });
    assert.deepEqual((await runner.finalMessage()).parsed, PERSON);
  });

  test('stream gives the usage', async () => {
    const stream_options = { include_usage: true };
    const runner = completions.stream({ model, messages: user('hi'), stream_options });
    assert.equal((await runner.totalUsage()).completion_tokens, 3);
  });

  test('stream tells tool calls', async () => {
    const messages = user(`Let me look.${call('get_weather', { city: 'Köln' })}`);
    const done = [];
    const runner = completions.stream({ model, messages, tools });
    runner.on('tool_calls.function.arguments.done', (event) => done.push(event));
    const { content, tool_calls } = await runner.finalMessage();
    assert.equal(content, 'Let me look.');
    assert.equal(done.length, 1);
    assert.equal(done[0].name, 'get_weather');
    assert.deepEqual(JSON.parse(done[0].arguments), { city: 'Köln' });
    assert.equal(tool_calls[0].function.arguments, done[0].arguments);
  });

  test('stream tells log probabilities', async () => {
    const runner = completions.stream({ model, messages: user('abc'), logprobs: true });
    let tokens;
    runner.on('logprobs.content.done', (event) => (tokens = event.content));
    await runner.done();
    assert.equal(tokens.slice(0, 3).map((token) => token.token).join(''), 'abc');
  });

  test('stream can be aborted', async () => {
    const messages = user('on and on ');
    const runner = completions.stream({ model, messages, ignore_eos: true });
    await busy();
    runner.abort();
    await assert.rejects(runner.done());
    assert.ok(runner.aborted);
    await idle();
  });

  const weatherTool = (calls) => ({
    type: 'function',
    function: {
      name: 'get_weather',
      parameters: { type: 'object', properties: { city: { type: 'string' } } },
      parse: JSON.parse,
      function: ({ city }) => {
        calls.push(city);
        return `sunny in ${city}`;
      },
    },
  });

  for (const stream of [false, true]) {
    test(`runTools calls and answers${stream ? ', streamed' : ''}`, async () => {
      const calls = [];
      const messages = user(call('get_weather', { city: 'Ulm' }));
      const runner = completions.runTools({ model, messages, stream, tools: [weatherTool(calls)] });
      assert.equal(await runner.finalContent(), 'sunny in Ulm');
      assert.deepEqual(calls, ['Ulm']);
      assert.deepEqual(
        runner.messages.map((message) => message.role),
        ['user', 'assistant', 'tool', 'assistant'],
      );
    });
  }

  test('responses.parse gives the object', async () => {
    const text = { format: zodTextFormat(Person, 'person') };
    const parsed = await client.responses.parse({ model, input: JSON.stringify(PERSON), text });
    assert.deepEqual(parsed.output_parsed, PERSON);
  });
});
