-- Give back tasks that never began, because the node cannot start this job. When no node
-- that could take it is left, the job ends FAILED with each node's reason.
-- KEYS  meta
-- ARGV  node uid, incarnation, run id, job, uid, slot, epoch, attempt, codes (14 for each
--       task given back), reason
-- Returns {'ok', accepted}; {'RUNID'}, {'FENCED'}.
-- Replay: the tasks are pending or run elsewhere; only the same reason is written again.
--- @include head job node batch

local uid = ARGV[1]
local no = refusal(uid, ARGV[2], ARGV[3])
if no then return {no} end
tick()
local node, j, b = load_node(uid), load(ARGV[4]), load_batch(uid, ARGV[6])
if not j or j.uid ~= ARGV[5] then return {'ok', 0} end

-- Whether some live node that the lane fits has not refused the job.
local function has_hope()
  local need = parse_lane(class_lane(j, b and b.class or 0))
  local live = redis.call('ZRANGE', P .. 'nodes', 0, SLICE - 1)
  for i = 1, #live do
    local other = load_node(live[i])
    if other and may_serve(need, other) and redis.call('HEXISTS', key('unfit', j.id), live[i]) == 0 then
      return true
    end
  end
  return false
end

redis.call('HSET', key('unfit', j.id), uid, ARGV[10])
j.unfit = 1
local accepted = 0
if b and b.job == ARGV[4] and b.epoch == tonumber(ARGV[7]) and b.attempt == tonumber(ARGV[8]) then
  local _, ended, again
  _, ended, again, accepted = leave(j, b, ARGV[9])
  if ended > 0 then notice(j) end
  if accepted > 0 then left_batch(uid, b, j, node, 0, true) end
end
if j.ended == 0 and j.fate == 0 and not has_hope() then
  redis.call('HSET', key('j', j.id), 'why', 'no node can start it')
  doom(j, F)
end
settle(j)
if accepted > 0 then offer(j) end
save_free(node)
return {'ok', accepted}
