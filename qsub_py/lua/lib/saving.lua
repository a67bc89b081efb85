-- Room that one node keeps for the first job that does not fit, so that narrow ones do not starve it:
-- `saving` in meta, "node|job|slot (its last one then)|lane". There is one in the cluster. It holds while that node has its
-- lease and is up, and until a task of the lane is taken anywhere or the lane is gone.
local saved

local function saving()
  if saved == nil then
    saved = false
    if meta[7] then
      local node, job, slot, lane = string.match(meta[7], '^([^|]*)|(%d+)|(%d+)|(.*)$')
      saved = {node = node, job = job, slot = tonumber(slot), lane = lane}
    end
  end
  return saved
end

-- Hints in the inbox, one of a kind: 1 look for work, 2 there is an order, 3 something may be due
-- sooner than nodes know. Without a node, 3 for the one that was heard of last (the others look
-- when they renew).
local function ping(uid)
  local hint = uid and 1 or 3
  uid = uid or redis.call('ZREVRANGE', P .. 'nodes', 0, 0)[1]
  if not uid then return end
  redis.call('LREM', key('inbox', uid), 0, hint)
  redis.call('RPUSH', key('inbox', uid), hint)
end

-- Give it up; the node that saved has refused work meanwhile, so it looks again.
local function end_saving(by)
  local node = saving().node
  redis.call('HDEL', KEYS[1], 'saving')
  saved = false
  if node ~= by and redis.call('ZSCORE', P .. 'nodes', node) then ping(node) end
end
