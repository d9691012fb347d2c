// The AI SDK: a loop with a tool and a second turn, whole and streamed. Prints a line of JSON for each
// case. connect.mjs is the code in docs/clients.md.
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { anthropic, compatible, openai } from './connect.mjs';

const models = {
  openai: openai('my-model'),
  'openai.chat': openai.chat('my-model'),
  'openai.responses': openai.responses('my-model'),
  compatible: compatible('my-model'),
  anthropic: anthropic('my-model'),
};
const tools = {
  get_weather: tool({
    description: 'The weather in a city.',
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `sunny in ${city}`,
  }),
};

async function ask(generate, model, messages, said) {
  messages.push({ role: 'user', content: said });
  const problems = [];
  const result = await generate({
    model,
    tools,
    messages,
    maxRetries: 0,
    stopWhen: stepCountIs(3),
    onError: ({ error }) => problems.push(error),
  });
  const text = await Promise.resolve(result.text).catch((error) => {
    throw problems[0] ?? error;
  });
  messages.push(...(await result.response).messages);
  return text;
}

async function converse(generate, model) {
  const messages = [];
  const first = await ask(generate, model, messages, 'What is the weather in Paris?');
  if (first !== 'It is sunny in Paris.') throw new Error(`answered ${first}`);
  const second = await ask(generate, model, messages, 'Thank you, that is all.');
  if (second !== 'You are welcome.') throw new Error(`answered ${second}`);
}

for (const [name, model] of Object.entries(models)) {
  for (const [way, generate] of Object.entries({ whole: generateText, streamed: streamText })) {
    let error = '';
    try {
      await converse(generate, model);
    } catch (problem) {
      error = `${problem.name}: ${problem.message} ${problem.responseBody ?? ''}`;
    }
    console.log(JSON.stringify({ case: `${name} ${way}`, error }));
  }
}
