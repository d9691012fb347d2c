-- The limits of one API key: a call admits into all of them or none, or ends what was admitted.
--
-- KEYS, all in one slot of a cluster:
--   1 meta      last (stamp of the latest call that took something), lost (until when to refuse)
--   2 requests  sorted set: id by stamp
--   3 tokens    sorted set: id by stamp
--   4 amounts   hash: the tokens of each id, their sum under ''
--   5 leases    sorted set: id of a running request by the stamp at which it lapses
--   6 reserved  hash: the budgeted tokens of running requests, their sum under ''
--   7 used      hash of a budget's period: what each gateway has used by its ledger, the sum under ''
-- ARGV[1], a map in msgpack: `Call` in vgate/frontend/shared_state/calls.py. Stamps and times are
-- ticks, by this server's clock. Every entry has its own stamp: the keys' expiry only clears what
-- no window reaches any more. Numbers go to commands as they are, since tostring() rounds them.
local meta, requests, tokens, amounts, leases, reserved, used = unpack(KEYS)
local call = cmsgpack.unpack(ARGV[1])
local id = call.id
local SOME = 1000

local function clock()
  if call.now then return call.now end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function number(key, field) return tonumber(redis.call('HGET', key, field) or 0) end

local time = clock()
local last = number(meta, 'last')
-- A clock that was set back must not reorder the stamps.
local now = math.max(time, last)

local function keep(key, ticks)
  redis.call('PEXPIRE', key, math.ceil(ticks * 1000 / call.second) + 1000)
end

-- A request that goes on with a stream has no window of requests, but the key does.
local function keep_meta(ticks)
  if redis.call('PTTL', meta) < ticks * 1000 / call.second then keep(meta, ticks) end
end

-- Forgets some of a set, and what they count for; the sum of all is the field without a name.
local function drop(set, counts, ids)
  local sum = 0
  for _, count in ipairs(redis.call('HMGET', counts, unpack(ids))) do
    sum = sum + tonumber(count or 0)
  end
  redis.call('ZREM', set, unpack(ids))
  redis.call('HDEL', counts, unpack(ids))
  if sum ~= 0 then redis.call('HINCRBY', counts, '', -sum) end
end

local function drop_old()
  if call.window then redis.call('ZREMRANGEBYSCORE', requests, '-inf', now - call.window) end
  for _, each in ipairs({{tokens, now - call.token_window, amounts}, {leases, now, reserved}}) do
    repeat
      local old = redis.call('ZRANGEBYSCORE', each[1], '-inf', each[2], 'LIMIT', 0, SOME)
      if #old > 0 then drop(each[1], each[3], old) end
    until #old < SOME
  end
end

-- A gateway's own use is told as its total, so that telling it again changes nothing.
local function tell_use()
  local budget = call.budget
  if not budget then return end
  local more = budget.used - number(used, budget.gateway)
  if more > 0 then
    redis.call('HSET', used, budget.gateway, budget.used)
    redis.call('HINCRBY', used, '', more)
  end
  keep(used, budget.keep)
end

local function lend(ids)
  for _, each in ipairs(ids) do redis.call('ZADD', leases, now + call.lease, each) end
  keep(leases, call.lease)
end

local function reserve(each, amount)
  if redis.call('HSETNX', reserved, each, amount) == 1 then
    redis.call('HINCRBY', reserved, '', amount)
  end
  keep(reserved, 2 * call.lease)
end

-- Returns the stamp of the entry with which `amount` has left, or nil.
local function stamp_freeing(amount)
  for first = 0, 9 * SOME, SOME do
    local found = redis.call('ZRANGE', tokens, first, first + SOME - 1)
    if #found == 0 then return nil end
    for n, each in ipairs(redis.call('HMGET', amounts, unpack(found))) do
      amount = amount - tonumber(each or 0)
      if amount <= 0 then return tonumber(redis.call('ZSCORE', tokens, found[n])) end
    end
  end
  return now - call.token_window + 1
end

local function left_until(log, window)
  local oldest = redis.call('ZRANGE', log, 0, 0, 'WITHSCORES')[2]
  return oldest and tonumber(oldest) + window - now or 0
end

-- `wait`: ticks until all limits would allow it; -1: never.
local answer = {time = time, last = last, wait = 0}

local function refuse(reason, wait)
  answer.reason = answer.reason or reason
  if wait < 0 or answer.wait < 0 then answer.wait = -1 else answer.wait = math.max(answer.wait, wait) end
end

local function check_requests()
  local excess = redis.call('ZCARD', requests) + call.cost - call.requests
  if call.cost == 0 or excess <= 0 then return end
  local freeing = redis.call('ZRANGE', requests, excess - 1, excess - 1, 'WITHSCORES')[2]
  refuse('requests', freeing and tonumber(freeing) + call.window - now or -1)
end

local function check_tokens()
  local excess = number(amounts, '') + call.tokens - call.token_limit
  if call.tokens == 0 or excess <= 0 then return end
  local freeing = call.tokens <= call.token_limit and stamp_freeing(excess)
  refuse('tokens', freeing and freeing + call.token_window - now or -1)
end

local function check_all()
  if call.requests then check_requests() end
  if call.token_limit then check_tokens() end
  if call.cost > 0 and call.concurrent and redis.call('ZCARD', leases) >= call.concurrent then
    refuse('concurrent', call.second)
  end
  if call.budget and call.tokens > 0 then
    local left = call.budget.tokens - number(used, '') - number(reserved, '')
    if call.tokens > left then
      refuse('budget', 0)
      answer.left = math.max(0, left)
    end
  end
end

local function take()
  local longest = math.max(call.lease, call.requests and call.window or 0,
    call.token_limit and call.token_window or 0)
  redis.call('HSET', meta, 'last', now)
  answer.last = now
  keep_meta(longest)
  if call.cost > 0 and call.requests then
    redis.call('ZADD', requests, now, id)
    keep(requests, call.window)
  end
  if call.tokens > 0 and call.token_limit then
    redis.call('ZADD', tokens, now, id)
    redis.call('HSET', amounts, id, call.tokens)
    redis.call('HINCRBY', amounts, '', call.tokens)
    keep(tokens, call.token_window)
    keep(amounts, call.token_window)
  end
  if call.tokens > 0 and call.budget then reserve(id, call.tokens) end
  if call.runs or call.tokens > 0 and call.budget then lend({id}) end
end

local function give_back()
  redis.call('ZREM', requests, id)
  drop(tokens, amounts, {id})
  drop(leases, reserved, {id})
end

-- Counts were lost if a gateway remembers a call that should still be known: the server was
-- restarted without its data, or with old data.
local function lost_until()
  local longest = math.max(call.lease, call.requests and call.window or 0,
    call.token_limit and call.token_window or 0)
  if call.seen and call.seen > last and call.seen > time - longest then
    redis.call('HSET', meta, 'last', math.max(now, call.seen), 'lost', now + longest)
    keep_meta(2 * longest)
    return now + longest
  end
  return number(meta, 'lost')
end

local operations = {}

function operations.admit()
  drop_old()
  tell_use()
  if call.strict then
    local lost = lost_until()
    if lost > now then
      answer.reason, answer.wait = 'lost', lost - now
      return
    end
  end
  check_all()
  if not answer.reason then
    take()
  elseif call.cost == 0 then
    give_back()
  end
end

function operations.settle()
  if call.abandon then
    give_back()
  else
    local amount = call.used and redis.call('HGET', amounts, id)
    if amount then
      redis.call('HSET', amounts, id, call.used)
      redis.call('HINCRBY', amounts, '', call.used - amount)
    end
    drop(leases, reserved, {id})
  end
  tell_use()
end

-- Requests that run on, and what their gateway has used: both may be news to a server without data.
function operations.renew()
  drop_old()
  if #call.ids > 0 then lend(call.ids) end
  for each, amount in pairs(call.budgeted) do reserve(each, amount) end
  tell_use()
end

function operations.usage()
  drop_old()
  tell_use()
  if call.strict then lost_until() end
end

-- A server whose memory is full refuses a script what may need more, unless it has written before:
-- half of its work would be worse. What limits need has bounds, so they go on then.
redis.call('ZREM', leases, '')

if call.deadline and time > call.deadline then
  answer.reason = 'late'  -- its gateway has given it up
else
  operations[call.op]()
end
answer.running = redis.call('ZCARD', leases)
answer.requests = redis.call('ZCARD', requests)
answer.tokens = number(amounts, '')
if call.requests then answer.requests_left_in = left_until(requests, call.window) end
if call.token_limit then answer.tokens_left_in = left_until(tokens, call.token_window) end
if call.budget then answer.budget = number(used, '') + number(reserved, '') end
return cmsgpack.pack(answer)
