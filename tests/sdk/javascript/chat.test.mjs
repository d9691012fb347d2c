import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ask, client, collect, gateway, model, textOf, user } from './gateway.mjs';

const TEXTS = {
  plain: 'Good morning',
  scripts: 'Grüße, 世界, مرحبا, हिन्दी',
  emoji: 'family 👩‍👩‍👧‍👦, flag 🇩🇪, face 🙂',
  controls: 'quotes " and \\ and </script> and \u2028 and \x01 and \t',
  events: 'data: [DONE]\n\ndata: {}\n\nevent: error\n\n',
  spaces: '  leading and trailing \n\n',
};

describe('chat', () => {
  test('a whole answer', async () => {
    const answer = await ask('Good morning');
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.model, model);
    const [choice] = answer.choices;
    assert.equal(choice.message.role, 'assistant');
    assert.equal(choice.message.content, 'Good morning');
    assert.equal(choice.message.refusal, null);
    assert.equal(choice.finish_reason, 'stop');
    assert.equal(answer.usage.completion_tokens, 'Good morning'.length + 1);
    assert.equal(
      answer.usage.total_tokens,
      answer.usage.prompt_tokens + answer.usage.completion_tokens,
    );
  });

  for (const [kind, text] of Object.entries(TEXTS)) {
    test(`text comes back as it was: ${kind}`, async () => {
      assert.equal((await ask(text)).choices[0].message.content, text);
    });
    test(`streamed text comes back as it was: ${kind}`, async () => {
      assert.equal(textOf(await collect(ask(text, { stream: true }))), text);
    });
  }

  for (const limit of ['max_tokens', 'max_completion_tokens']) {
    test(`${limit} cuts no character in two`, async () => {
      const { choices, usage } = await ask('a🙂b', { [limit]: 3 });
      assert.equal(choices[0].message.content, 'a');
      assert.equal(choices[0].finish_reason, 'length');
      assert.equal(usage.completion_tokens, 3);
    });
  }

  for (const [stop, expected] of [
    ['three', 'one two '],
    [['nowhere', ' two'], 'one'],
    ['on', ''],
    ['six', 'one two three'],
  ]) {
    test(`stop ${JSON.stringify(stop)}`, async () => {
      const [choice] = (await ask('one two three', { stop })).choices;
      assert.equal(choice.message.content, expected);
      assert.equal(choice.finish_reason, 'stop');
    });
  }

  test('several choices', async () => {
    const { choices, usage } = await ask('hi', { n: 3, seed: 7 });
    assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2]);
    assert.deepEqual(choices.map((choice) => choice.message.content), ['hi', 'hi', 'hi']);
    assert.equal(usage.completion_tokens, 9);
  });

  test('every kind of message', async () => {
    const answer = await client.chat.completions.create({
      model,
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'developer', content: [{ type: 'text', text: 'Really.' }] },
        { role: 'user', content: 'Hello', name: 'someone' },
        { role: 'assistant', content: 'Hi.' },
        { role: 'user', content: [{ type: 'text', text: 'first' }, { type: 'text', text: 'second' }] },
      ],
    });
    assert.equal(answer.choices[0].message.content, 'first\nsecond');
  });

  test('an answer can be sent back', async () => {
    const { message } = (await ask('Good morning')).choices[0];
    const messages = [...user('Good morning'), message, ...user('again')];
    const answer = await client.chat.completions.create({ model, messages });
    assert.equal(answer.choices[0].message.content, 'again');
  });

  test('an alias answers with the name of the model', async () => {
    assert.equal((await ask('hi', { model: gateway.alias })).model, model);
  });

  for (const params of [
    { temperature: 0 },
    { temperature: 2, top_p: 0.1 },
    { presence_penalty: -2, frequency_penalty: 2 },
    { seed: -1 },
    { logit_bias: {} },
    { user: 'someone', metadata: { any: 'thing' }, store: false, service_tier: 'auto' },
    { reasoning_effort: 'none' },
    { response_format: { type: 'text' } },
    { stop: null, max_tokens: null, seed: null, tools: undefined },
    { top_k: 5, min_p: 0.1, repetition_penalty: 1.1 },
  ]) {
    test(`nothing changes with ${JSON.stringify(params)}`, async () => {
      assert.equal((await ask('hi', params)).choices[0].message.content, 'hi');
    });
  }

  test('reasoning is apart from the answer', async () => {
    const { message } = (await ask('<think>Hm.</think>42')).choices[0];
    assert.equal(message.content, '42');
    assert.equal(message.reasoning_content, 'Hm.');
  });

  test('log probabilities', async () => {
    const [choice] = (await ask('abc', { logprobs: true, top_logprobs: 2 })).choices;
    const tokens = choice.logprobs.content;
    assert.equal(tokens.slice(0, 3).map((token) => token.token).join(''), 'abc');
    assert.ok(tokens.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
  });

  test('no log probabilities unless they are asked for', async () => {
    assert.equal((await ask('abc')).choices[0].logprobs, null);
  });

  test("vLLM's fields", async () => {
    const [choice] = (await ask('abc', { stop_token_ids: [99], return_token_ids: true })).choices;
    assert.equal(choice.message.content, 'ab');
    assert.equal(choice.stop_reason, 99);
    assert.deepEqual(choice.token_ids, [97, 98, 99]);
    const endless = await ask('ab', { ignore_eos: true, max_tokens: 5 });
    assert.equal(endless.choices[0].message.content, 'ababa');
  });

  test('many at once', async () => {
    const numbers = Array.from({ length: 64 }, (_, number) => `number ${number}`);
    const answers = await Promise.all(numbers.map((text) => ask(text)));
    assert.deepEqual(answers.map((answer) => answer.choices[0].message.content), numbers);
  });
});
