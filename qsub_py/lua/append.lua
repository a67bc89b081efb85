-- Add tasks to an open job, close it, or renew its client's lease of ten minutes.
-- KEYS  meta
-- ARGV  job, uid, first, count, close (0 or 1), name of the blob that is the chunk or '', chunk, signature,
--       inputs of its tasks: groups "first,n,k=job:from:count:step;...|..." (deps.lua), or ''
-- Returns {'ok', tasks now, unfinished fan-outs}; {'gone'} no such job; {'closed'} it takes no more; {'full'};
--         {'gap', tasks now} when earlier tasks are missing.
-- Replay: tasks up to first + count exist already, so nothing is added.
--- @include head job node batch deps blob

local j = load(ARGV[1])
if not j or j.uid ~= ARGV[2] then return {'gone'} end
local first, count = tonumber(ARGV[3]), tonumber(ARGV[4])
local is_new = count > 0 and first + count > j.n
if is_new then
  if j.open == 0 then return {'closed'} end
  if first ~= j.n then return {'gap', j.n} end
  -- Groups are in order and within the chunk.
  local at = first
  for p, n in string.gmatch(ARGV[9] or '', '(%d+),(%d+),%d+=') do
    if tonumber(p) < at or p + n > first + count then return redis.error_reply('ERR inputs of no task') end
    at = p + n
  end
  if is_full() then return {'full'} end
  keep_blobs(j, ARGV[6])
  redis.call('XADD', key('args', j.id), string.format('%.0f-0', first + 1), 'n', count, 'd', ARGV[7],
    's', ARGV[8], 'b', ARGV[6])
  j.n = first + count
end
tick()

-- Each task of the chunk is marked: waits for inputs, or may start.
local function mark_inputs()
  if j.gate == 0 then set_gate(j, 1) end
  pass(j, first)
  local at, bytes = first, {}
  local function free(stop)
    if stop > at then push_again(j.id, at, stop - at, false) end
    bytes[#bytes + 1] = string.rep('\0', stop - at)
  end
  add_groups(j, ARGV[9], function(from, n)
    free(from)
    bytes[#bytes + 1] = string.rep(string.char(WT * 16), n)
    j.wait, at = j.wait + n, from + n
  end)
  free(first + count)
  put_states(j, first, table.concat(bytes))
  j.cursor = first + count
end

local waits = is_new and (ARGV[9] or '') ~= ''
if waits then mark_inputs() end

if j.open == 1 then
  if ARGV[5] == '1' then
    j.open = 0
    redis.call('ZREM', P .. 'open', j.id)
  else
    redis.call('ZADD', P .. 'open', SERVED + 600000, j.id)
  end
end
if waits then
  begin_waiting(j, first, first + count - 1)
  return {'ok', j.n, redis.call('LLEN', P .. 'todo')}
end
settle(j)
if is_new then offer(j) end
return {'ok', j.n, 0}
