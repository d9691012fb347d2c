import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import { ask, client, engine, gateway, guarded, model, refused, until, user } from './gateway.mjs';

const authorised = { authorization: `Bearer ${gateway.key}` };
const endless = { model, messages: user('on and on '), ignore_eos: true, stream: true };
const hi = { model, messages: user('hi') };

// Has the only place in the batch and the only one in the queue taken while `work` runs.
async function whileFull(work) {
  const { completions } = guarded(gateway.key).chat;
  const running = await completions.create(endless);
  for await (const chunk of running) if (chunk.choices[0].delta.content) break;
  // Leaving the loop ended that stream; this one is left alone until the end.
  const controller = new AbortController();
  const { signal } = controller;
  await completions.create(endless, { signal });
  const waiting = completions.create(hi, { signal }).catch(() => {});
  const stats = () => engine(gateway.guardedUrl, authorised);
  await until(async () => (await stats()).waiting === 1, 'the queue is full');
  try {
    await work(controller);
  } finally {
    controller.abort();
    await waiting;
    await until(async () => (await stats()).running === 0, 'the engine is idle');
  }
}

describe('errors', () => {
  for (const [params, code, param] of [
    [{ messages: [] }, 'invalid_value', 'messages'],
    [
      { messages: user([{ type: 'image_url', image_url: { url: 'x' } }]) },
      'unsupported_parameter',
      'messages[0].content[0].type',
    ],
    [{ temperature: -3 }, 'invalid_value', 'temperature'],
    [{ max_tokens: 0 }, 'invalid_value', 'max_tokens'],
    [{ n: 129 }, 'invalid_value', 'n'],
    [{ stop: [''] }, 'invalid_value', 'stop[0]'],
    [{ top_logprobs: 2 }, 'invalid_value', 'top_logprobs'],
    [{ modalities: ['audio'] }, 'unsupported_parameter', 'modalities'],
  ]) {
    test(`a bad request: ${JSON.stringify(params)}`, async () => {
      const error = await refused(ask('hi', params), OpenAI.BadRequestError, {
        status: 400,
        type: 'invalid_request_error',
        code,
        param,
      });
      assert.ok(error.message.includes(`\`${param}\``), error.message);
      assert.match(error.requestID, /^req-/);
    });
  }

  test('a prompt that is too long', async () => {
    const error = await refused(ask('x'.repeat(40_000)), OpenAI.BadRequestError, {
      code: 'context_length_exceeded',
    });
    assert.match(error.message, /32768/);
  });

  for (const [params, told] of [
    [{}, null],
    [{ max_token: 5 }, 'max_token'],
    [{ model: 'gpt-4o' }, 'model'],
    [{ verbosity: 'low' }, 'verbosity'],
    [{ messages: [{ role: 'user' }] }, null],
  ]) {
    test(`what has no effect is told: ${JSON.stringify(params)}`, async () => {
      const { data, response } = await ask('hi', params).withResponse();
      assert.equal(response.headers.get('x-vgate-ignored'), told);
      assert.ok(data.choices[0].finish_reason);
    });
  }

  test('an unknown path', async () => {
    await refused(client.images.generate({ model, prompt: 'x' }), OpenAI.NotFoundError, {
      code: 'not_found',
    });
  });

  test('a body that is too large', async () => {
    await refused(ask('x'.repeat(9_000_000)), OpenAI.APIError, { status: 413 });
  });

  test('a wrong key', async () => {
    await refused(guarded('sk-wrong').models.list(), OpenAI.AuthenticationError, {
      status: 401,
      code: 'invalid_api_key',
    });
  });

  test('a right key', async () => {
    const answer = await guarded(gateway.key).chat.completions.create(hi);
    assert.equal(answer.choices[0].message.content, 'hi');
  });

  test('a limit that is reached, and waited for', async () => {
    const limited = guarded(gateway.limitedKey);
    const many = async () => {
      for (let count = 0; count < 100; count += 1) await limited.chat.completions.create(hi);
    };
    const error = await refused(many(), OpenAI.RateLimitError, { code: 'rate_limit_exceeded' });
    assert.equal(error.headers.get('retry-after'), '1');
    const patient = guarded(gateway.limitedKey, { maxRetries: 3 });
    for (let count = 0; count < 3; count += 1) await patient.chat.completions.create(hi);
  });

  test('a full queue', async () => {
    await whileFull(async () => {
      for (const stream of [false, true]) {
        const request = guarded(gateway.key).chat.completions.create({ ...hi, stream });
        const error = await refused(request, OpenAI.InternalServerError, {
          status: 503,
          code: 'overloaded',
          type: 'overloaded_error',
        });
        assert.ok(Number(error.headers.get('retry-after')) >= 1);
      }
    });
  });

  test('an error in a stream', async () => {
    const stream = await guarded(gateway.key).chat.completions.create(endless);
    const error = await refused(Promise.resolve(stream), OpenAI.APIError);
    assert.equal(error.code, 'deadline_exceeded');
    assert.equal(error.status, undefined);
  });
});
