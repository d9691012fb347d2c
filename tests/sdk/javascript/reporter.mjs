// Says each test's outcome as one line of JSON, which is what the Python side reads.

export default async function* report(source) {
  const names = [];
  for await (const { type, data } of source) {
    if (type === 'test:start') names.splice(data.nesting, Infinity, data.name);
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    if (data.details.type === 'suite' && type === 'test:pass') continue;
    const error = data.details.error;
    // A suite fails because a test of it did, which has said so itself.
    if (error?.failureType === 'subtestsFailed') continue;
    const cause = error?.cause ?? error;
    const outcome = {
      suite: names[0],
      name: [...names.slice(1, data.nesting), data.name].join(' > '),
      passed: type === 'test:pass' && data.skip === undefined && data.todo === undefined,
      error: error ? String(cause?.stack ?? cause) : null,
    };
    yield `${JSON.stringify(outcome)}\n`;
  }
}
