// All suites in one process: loading the client takes longer than most tests.

import './chat.test.mjs';
import './streams.test.mjs';
import './helpers.test.mjs';
import './tools.test.mjs';
import './forms.test.mjs';
import './completions.test.mjs';
import './embeddings.test.mjs';
import './models.test.mjs';
import './responses.test.mjs';
import './errors.test.mjs';
import './transport.test.mjs';
