-- Let jobs start whose begin time has come, and tasks run again whose backoff is over; cancel what has
-- not begun by its deadline; wake nodes for lanes whose rate has room again.
-- KEYS  meta
-- Returns {how many (at most 256), next due ms or 0, schedule, ...}, the schedules that are due (at
-- most 16); call again while it is 256.
-- Replay: they have left `due`, `later` and `rate_due`; a deadline that has passed is gone.
--- @include head job node ahead
tick()
local budget = SLICE

-- Tasks whose time has come go to the end of the list of their class.
local function ripen(j)
  local ripe = redis.call('ZRANGEBYSCORE', key('later', j.id), '-inf', NOW, 'LIMIT', 0, budget)
  for i = 1, #ripe do
    redis.call('ZREM', key('later', j.id), ripe[i])
    ripe[i] = tonumber(ripe[i])
  end
  -- Neighbours may run in one batch again.
  table.sort(ripe)
  local i = 1
  while i <= #ripe do
    local class, n = class_of(j.id, ripe[i]), 1
    while ripe[i + n] == ripe[i] + n and class_of(j.id, ripe[i + n]) == class do n = n + 1 end
    push_again(j.id, ripe[i], n, false, class)
    if class > 0 then j.grown = j.grown + n end
    i = i + n
  end
  j.later = j.later - #ripe
  budget = budget - #ripe
end

-- What had an attempt goes on: it runs, or waits for its next one. That may be found among the
-- tasks before the cursor, by whoever does `todo`; what is past it never began.
local function give_up_late(j)
  local why = 'not begun by its deadline'
  j.expire = 0
  if pending(j) == 0 then return end
  if j.cursor == 0 then
    redis.call('HSET', key('j', j.id), 'why', why)
    doom(j, CA)
    return
  end
  push_todo('expire', j.id, 0, j.cursor - 1, why)
  if j.cursor < j.n and cancel_ahead(j, j.cursor, j.n - 1) > 0 then
    redis.call('HSET', key('j', j.id), 'why', why)
    notice(j)
  end
end

local function let_go(j)
  if j.expire > 0 and j.expire <= NOW then give_up_late(j) end
  if j.begin <= NOW then j.begin = 0 end
  if j.later_at > 0 and j.later_at <= NOW then ripen(j) end
  later_again(j)
  settle(j)
  offer(j)
end

local due = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', NOW, 'LIMIT', 0, SLICE)
for i = 1, #due do
  if budget <= 0 then break end
  budget = budget - 1
  local j = load(due[i])
  if not j or not pcall(let_go, j) then redis.call('ZREM', P .. 'due', due[i]) end
end
local next_due = redis.call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')
local next_beat = redis.call('ZRANGEBYSCORE', P .. 'beats', '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local soon = tonumber(next_due[2] or next_beat[2] or 0)
if next_beat[2] then soon = math.min(soon, tonumber(next_beat[2])) end
local next_rate = policy().wake_rates()
if next_rate and (soon == 0 or next_rate < soon) then soon = next_rate end
local reply = {budget <= 0 and SLICE or #due, soon}
local beats = redis.call('ZRANGEBYSCORE', P .. 'beats', '-inf', NOW, 'LIMIT', 0, 16)
for i = 1, #beats do reply[#reply + 1] = tonumber(beats[i]) end
return reply
