import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { NotFoundError } from 'openai';
import { client, collect, gateway, model, refused } from './gateway.mjs';

const names = [model, gateway.alias, gateway.brief, gateway.embedder];

describe('models', () => {
  test('the list', async () => {
    const page = await client.models.list();
    assert.equal(page.object, 'list');
    assert.deepEqual(page.data.map((card) => card.id), names);
  });

  test('the list can be iterated', async () => {
    assert.deepEqual((await collect(client.models.list())).map((card) => card.id), names);
  });

  test('one', async () => {
    const card = await client.models.retrieve(model);
    assert.equal(card.id, model);
    assert.equal(card.object, 'model');
    assert.equal(card.max_model_len, 32_768);
  });

  test('an unknown one', async () => {
    await refused(client.models.retrieve('no/such model'), NotFoundError, {
      code: 'model_not_found',
      param: 'model',
    });
  });
});
