-- Room that one node keeps for the first job that does not fit, so that narrow ones do not starve it:
-- hash `saving` lane, node, job, slot (its last one then). There is one in the cluster. It holds while that node has its
-- lease and is up, and until a task of the lane is taken anywhere or the lane is gone.
local saved

local function saving()
  if saved == nil then
    local row = redis.call('HMGET', P .. 'saving', 'lane', 'node', 'job', 'slot')
    saved = row[1] and {lane = row[1], node = row[2], job = row[3], slot = tonumber(row[4])} or false
  end
  return saved
end

-- Hints in the inbox: 1 look for work (one is enough), 2 there is an order.
local function ping(uid)
  if redis.call('LLEN', key('inbox', uid)) == 0 then redis.call('RPUSH', key('inbox', uid), 1) end
end

-- Give it up; the node that saved has refused work meanwhile, so it looks again.
local function end_saving(by)
  local node = saving().node
  redis.call('DEL', P .. 'saving')
  saved = false
  if node ~= by and redis.call('ZSCORE', P .. 'nodes', node) then ping(node) end
end

-- A node starts nothing more, or is gone.
local function stop_saving(uid)
  if saving() and saving().node == uid then end_saving(uid) end
end
