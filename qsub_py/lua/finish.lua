-- Report ends of tasks. Only what this batch (node, slot, job uid, attempt, epoch) still runs
-- is accepted: the fencing token of each attempt.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id,
--       then groups of 15: job, uid, slot, epoch, attempt, codes (a byte for each task of the
--       batch: 0 not now, 3..8 the state, 15 lost, 14 never began; plus 16 times a wish to
--       run again, see retry.lua), result data, signature,
--       "position:exit code,..." of non-zero exits or '', blobs ("name,name"),
--       tails of outputs ("position:bytes,position:bytes"), these bytes joined,
--       what they brought ("position:bytes of the note:bytes of files,..."), these notes joined,
--       what they used (account.lua) or ''
-- Returns {'ok', unfinished fan-outs, n, ...}, n the number of tasks accepted of each group; {'RUNID'}, {'FENCED'}.
-- Replay: the tasks are no longer running in this batch, so 0 are accepted.
--- @include head job node batch deps todo blob account

local uid = ARGV[1]
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end
tick()
local node = load_node(uid)

local function store_result(j, b, ok, data, signature)
  j.rseq = j.rseq + 1
  redis.call('XADD', key('res', j.id), string.format('%.0f-0', j.rseq), 'f', string.format('%.0f', b.first),
    'c', ok, 'd', data, 's', signature)
  local number, from = struct.pack('>I4', j.rseq), 1
  while from do
    local first, last = string.find(ok, '[^%z]+', from)
    if first then
      redis.call('SETRANGE', key('rx', j.id), (b.first + first - 1) * 4, string.rep(number, last - first + 1))
    end
    from = last and last + 1
  end
end

-- Keep the exit code of the lowest position that did not exit with 0.
local function note_exit(j, b, ok, text)
  for position, code in string.gmatch(text, '(%d+):(-?%d+)') do
    if (string.byte(ok, position - b.first + 1) or 0) > 0 then
      local known = redis.call('HGET', key('j', j.id), 'exit_at')
      if not known or tonumber(position) < tonumber(known) then
        redis.call('HSET', key('j', j.id), 'exit_at', position, 'exit', code)
      end
    end
  end
end

-- Keep tails of outputs while the job has room for them: 16 MB, the last half for failures.
local function keep_tails(j, b, ok, index, bytes)
  local at = 1
  for position, size in string.gmatch(index, '(%d+):(%d+)') do
    local state, used = string.byte(ok, position - b.first + 1), tonumber(redis.call('HGET', key('j', j.id), 'tails') or 0)
    if state and state > 0 and used + size <= (state == CD and 8388608 or 16777216) then
      redis.call('HSET', key('tail', j.id), position, string.sub(bytes, at, at + size - 1))
      redis.call('HINCRBY', key('j', j.id), 'tails', size)
    end
    at = at + size
  end
end

-- Keep the signed notes on the files that tasks brought, and how much that is by now.
local function keep_files(j, b, ok, index, notes)
  local at = 1
  for position, size, brought in string.gmatch(index, '(%d+):(%d+):(%d+)') do
    if (string.byte(ok, position - b.first + 1) or 0) > 0 then
      redis.call('HSET', key('files', j.id), position, string.sub(notes, at, at + size - 1))
      redis.call('HINCRBY', key('j', j.id), 'brought', brought)
    end
    at = at + size
  end
end

local reply = {'ok', 0}
for i = 4, #ARGV, 15 do
  local b, j = load_batch(uid, ARGV[i + 2]), load(ARGV[i])
  local accepted = 0
  if b and j and j.uid == ARGV[i + 1] and b.job == ARGV[i] and b.epoch == tonumber(ARGV[i + 3])
    and b.attempt == tonumber(ARGV[i + 4]) then
    local ok, ended, again
    local was_ready = is_ready(j)
    ok, ended, again, accepted = leave(j, b, ARGV[i + 5])
    if ended > 0 then
      store_result(j, b, ok, ARGV[i + 6], ARGV[i + 7])
      note_exit(j, b, ok, ARGV[i + 8])
      keep_blobs(j, ARGV[i + 9])
      keep_tails(j, b, ok, ARGV[i + 10], ARGV[i + 11])
      keep_files(j, b, ok, ARGV[i + 12], ARGV[i + 13])
      account(j, b, ARGV[i + 14], ok, ARGV[i + 5], ended, accepted)
    end
    if accepted > 0 then left_batch(uid, b, j, node, again, was_ready) end
  end
  reply[#reply + 1] = accepted
end
save_free(node)
save_days()
-- What waits for these starts, or fails, at once.
reply[2] = do_todo()
return reply
