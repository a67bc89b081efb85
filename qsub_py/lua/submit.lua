-- Create a job, or return the one that this token made before.
-- KEYS  meta
-- ARGV  token, uid, spec, signature, count, lane, priority, limit, held, open, begin (ms or 0),
--       function (or ''), requeue, blobs ("name,name"), shipped blobs ("name:pieces,name:pieces"),
--       then pairs field, value for display (name owner queue kind cpus mem gpus time ...); of these
--       after, asked, depor (conditions, how many, one is enough) and corr (inputs of tasks) are
--       what it waits for (deps.lua), expire (ms) is its deadline
-- Returns {'ok', id, is new, unfinished fan-outs}; {'unknown', id}: it waits for a job that is not there; {'full'} when memory is short; {'lost'}: a shipped blob is not there
--         (any more), send it again.
-- Replay: the token finds the first one's id; nothing is written.
--- @include head job node batch deps blob

local former = redis.call('GET', key('tok', ARGV[1]))
if former then return {'ok', tonumber(former), 0, 0} end
local shown_as = {}
for i = 16, #ARGV, 2 do shown_as[ARGV[i]] = ARGV[i + 1] end

-- The first job that it would wait for and that is not there. Of very many the rest is looked at
-- as they are enrolled.
local function unknown()
  for _, field in ipairs({'corr', 'after'}) do
    local n = 0
    for id in string.gmatch(shown_as[field] or '', '[%a=;]:?(%d+):') do
      if n == LONG then break end
      if id ~= '0' and redis.call('EXISTS', key('j', id)) == 0 then return id end
      n = n + 1
    end
  end
end
local missing = unknown()
if missing then return {'unknown', missing} end
if not has_shared(ARGV[15]) then return {'lost'} end
if is_full() then return {'full'} end
tick()
local id = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'job', 1))
local count, priority = tonumber(ARGV[5]), tonumber(ARGV[7])
redis.call('SET', key('tok', ARGV[1]), id)
redis.call('HSET', key('j', id), 'uid', ARGV[2], 'spec', ARGV[3], 'sig', ARGV[4], 'n', count,
  'cursor', 0, 'lane', ARGV[6], 'prio', priority, 'limit', ARGV[8], 'held', ARGV[9], 'open', ARGV[10],
  'begin', ARGV[11], 'requeue', ARGV[13], 'token', ARGV[1], 'submitted', NOW, 'c1', '0', 'c2', '0', 'c3', '0', 'c4', '0', 'c5', '0', 'c6', '0',
  'c7', '0', 'c8', '0', 'c9', '0', 'fate', '0', 'ended', '0', 'started', '0', 'rseq', '0', 'unfit', '0',
  'rank', string.format('%.0f', id - priority * 1099511627776))
if ARGV[12] ~= '' then redis.call('HSET', key('j', id), 'fn', ARGV[12]) end
for i = 16, #ARGV, 2 do redis.call('HSET', key('j', id), ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', P .. 'active', id, id)
if ARGV[10] == '1' then redis.call('ZADD', P .. 'open', SERVED + 600000, id) end
local j = load(id)
if j.begin + j.expire > 0 then
  set_due(j)
  ping()
end
keep_blobs(j, ARGV[14])
share_blobs(j, ARGV[15])

if shown_as.after then
  met[j.id] = j
  j.dep = tonumber(shown_as.asked)
  if string.sub(shown_as.after, 1, 10) == 'singleton:' then
    local line = key('same', redis.sha1hex(shown_as.owner .. ' ' .. shown_as.name))
    redis.call('HSET', key('j', id), 'line', line)
    redis.call('ZADD', line, id, id)
    j.kids = 4
  end
  -- Very many conditions are dear to take in.
  spend(math.min(BUDGET - 1, #shown_as.after / 8192))
  local number, at = enroll_slice(j, 0, 1)
  if number then push_todo('enroll', id, number, at, '') end
end
if shown_as.corr then
  set_gate(j, 2)
  j.wait = j.n
  add_groups(j, shown_as.corr)
end
begin_waiting(j, 0, shown_as.corr and j.n - 1 or -1)
return {'ok', tonumber(id), 1, redis.call('LLEN', P .. 'todo')}
