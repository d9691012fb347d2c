import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import { ask, busy, client, gateway, idle, model, user } from './gateway.mjs';

const endless = { model, messages: user('on and on '), ignore_eos: true };
const { completions } = client.chat;

describe('transport', () => {
  test('the request id', async () => {
    assert.match((await ask('hi'))._request_id, /^req-[0-9a-f]{24}$/);
    const headers = { 'x-request-id': 'mine-7' };
    const answer = await completions.create({ model, messages: user('hi') }, { headers });
    assert.equal(answer._request_id, 'mine-7');
  });

  test('the raw response', async () => {
    const response = await ask('hi').asResponse();
    assert.equal(response.headers.get('content-type'), 'application/json');
    assert.equal((await response.json()).choices[0].message.content, 'hi');
  });

  test('the response beside the answer', async () => {
    const { data, response, request_id } = await ask('hi').withResponse();
    assert.equal(data.choices[0].message.content, 'hi');
    assert.equal(response.headers.get('x-request-id'), request_id);
  });

  test('the raw response of a stream', async () => {
    const response = await ask('hi', { stream: true }).asResponse();
    assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
    assert.ok((await response.text()).endsWith('data: [DONE]\n\n'));
  });

  test('further headers and queries change nothing', async () => {
    const other = new OpenAI({
      baseURL: `${gateway.url}/v1/`,
      apiKey: 'x',
      organization: 'org',
      project: 'proj',
      defaultHeaders: { 'x-mine': '1' },
      defaultQuery: { 'api-version': '1' },
    });
    const answer = await other.chat.completions.create({ model, messages: user('hi') });
    assert.equal(answer.choices[0].message.content, 'hi');
  });

  test('leaving a stream ends its generation', async () => {
    for await (const chunk of await completions.create({ ...endless, stream: true })) {
      if (chunk.choices[0].delta.content) break;
    }
    await idle();
  });

  test("a stream's controller ends its generation", async () => {
    const stream = await completions.create({ ...endless, stream: true });
    await busy();
    stream.controller.abort();
    await idle();
  });

  test('an aborted request ends its generation', async () => {
    const controller = new AbortController();
    const request = completions.create(endless, { signal: controller.signal });
    await busy();
    controller.abort();
    await assert.rejects(request, OpenAI.APIUserAbortError);
    await idle();
  });

  test('a time limit of the client ends its generation', async () => {
    await assert.rejects(
      completions.create(endless, { timeout: 300 }),
      OpenAI.APIConnectionTimeoutError,
    );
    await idle();
  });

  test('nobody listens', async () => {
    const nobody = new OpenAI({ baseURL: 'http://127.0.0.1:9/v1', apiKey: 'x', maxRetries: 0 });
    await assert.rejects(nobody.models.list(), OpenAI.APIConnectionError);
  });
});
