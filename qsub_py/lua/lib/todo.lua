-- Fan-outs that one script could not finish: "verb|job|a|b|word" in `todo`, a slice a call.

-- Cancel positions a..b below the cursor, at most SLICE, or only those `unbegun`; returns the next
-- position, how many waited, how many run.
local function cancel_slice(j, a, b, unbegun)
  local stop = math.min(b, j.cursor - 1, a + SLICE - 1)
  if stop < a then return a, 0, 0 end
  local bytes, out, waiting, running, held = states_of(j.id, a, stop - a + 1), {}, 0, 0, 0
  for i = 1, #bytes do
    local byte = string.byte(bytes, i)
    local state = math.floor(byte / 16)
    if unbegun and byte % 16 > 0 then -- it had an attempt
    elseif state == PD or state == WT then
      if state == WT then held = held + 1 else unplace(j, a + i - 1) end
      byte, waiting = CA * 16 + byte % 16, waiting + 1
    elseif state == R then byte, running = CG * 16 + byte % 16, running + 1 end
    out[i] = string.char(byte)
  end
  redis.call('SETRANGE', key('st', j.id), a, table.concat(out))
  j.c5, j.wait = j.c5 + waiting, j.wait - held
  if waiting > 0 then tell(j, a, stop) end
  j.c1, j.c2 = j.c1 - running, j.c2 + running
  return stop + 1, waiting, running
end

-- What was cancelled of what gone nodes hold ends here.
local function bury(j)
  local holders = redis.call('HKEYS', key('on', j.id))
  for i = 1, math.min(#holders, SLICE) do
    local is_gone = not redis.call('ZSCORE', P .. 'nodes', holders[i])
    local slots = is_gone and redis.call('HKEYS', key('slots', holders[i])) or {}
    for k = 1, #slots do
      local b = load_batch(holders[i], slots[k])
      if b.job == j.id then bury_batch(holders[i], b, j) end
    end
  end
end

-- Tell each node that holds batches of the job; returns pairs node, sequence number. `upto`: the
-- node's last slot by now. What begins later is not meant, however late the order is obeyed.
local function order_holders(id, text)
  local told, holders = {}, redis.call('HKEYS', key('on', id))
  local rest = string.sub(text, 2)
  if string.sub(rest, 1, 1) ~= '}' then rest = ',' .. rest end
  for i = 1, math.min(#holders, SLICE) do
    local upto = redis.call('HGET', key('node', holders[i]), 'slotseq') or '0'
    told[#told + 1] = holders[i]
    told[#told + 1] = order(holders[i], '{"upto":' .. upto .. rest)
  end
  return told
end

local function cancel_order(j, a, b, by)
  return cjson.encode({op = 'cancel', job = tonumber(j.id), uid = j.uid, first = a, last = b, by = by})
end

-- Put ended tasks of the states in `mask` ("|4|6|") back; returns the next position and how many.
-- Where tasks have inputs it is decided anew whether these are there.
local function requeue_slice(j, a, b, mask)
  local stop = math.min(b, j.cursor - 1, a + SLICE - 1)
  if stop < a then return a, 0 end
  local bytes, out, n, run = states_of(j.id, a, stop - a + 1), {}, 0, 0
  local bad = tonumber(redis.call('HGET', key('j', j.id), 'exit_at') or -1)
  local has_tried = redis.call('EXISTS', key('rt', j.id)) == 1
  for i = 1, #bytes do
    local byte = string.byte(bytes, i)
    local state = math.floor(byte / 16)
    if state >= CD and string.find(mask, '|' .. state .. '|', 1, true) then
      j['c' .. state] = j['c' .. state] - 1
      byte, n = byte % 16, n + 1
      if j.gate > 0 then byte, j.wait = WT * 16 + byte, j.wait + 1 else run = run + 1 end
      -- What went wrong before is forgotten.
      if state == NF then redis.call('HDEL', key('ct', j.id), a + i - 1) end
      if has_tried then redis.call('HDEL', key('rt', j.id), a + i - 1) end
      if bad == a + i - 1 then redis.call('HDEL', key('j', j.id), 'exit_at', 'exit') end
    elseif run > 0 then
      push_again(j.id, a + i - 1 - run, run, false)
      run = 0
    end
    out[i] = string.char(byte)
  end
  if run > 0 then push_again(j.id, stop + 1 - run, run, false) end
  redis.call('SETRANGE', key('st', j.id), a, table.concat(out))
  -- It said how a task ran out of memory.
  if n > 0 and j.c7 == 0 then redis.call('HDEL', key('j', j.id), 'why') end
  if j.gate > 0 and n > 0 then push_todo('weigh', j.id, a, stop, '1') end
  return stop + 1, n
end

-- Let the cursor pass what was cancelled beyond it within a..b, so that it has bytes.
local function pass_cancelled(j, a, b)
  local cut, to = intervals(j.id), j.cursor
  for i = 1, #cut do
    if cut[i][1] <= b and cut[i][2] >= a then to = math.max(to, math.min(cut[i][2], b) + 1) end
  end
  if to > j.cursor then pass(j, to) end
end

-- Write down, from position a on, what the fate of an ended job says of tasks that never ran; the
-- fate goes when all have bytes or, cancelled, stand in an interval. Returns the next position,
-- nil when it is done. The tasks show the same states all along.
local LIFTED = 4096
local function lift_slice(j, a)
  if j.fate == 0 then return nil end
  if a < j.cursor then
    local bytes, ends = states_of(j.id, a, math.min(LIFTED, j.cursor - a)), {}
    for n = 0, 15 do
      ends[string.char(n)] = string.char(j.fate * 16 + n)
      ends[string.char(WT * 16 + n)] = ends[string.char(n)]
    end
    redis.call('SETRANGE', key('st', j.id), a, (string.gsub(bytes, '[%z\1-\15\176-\191]', ends)))
    return a + #bytes
  end
  if j.cursor < j.n and j.fate ~= CA then
    pass(j, math.min(j.n, j.cursor + LIFTED))
    return a
  end
  if j.cursor < j.n then
    redis.call('HSET', key('j', j.id), 'cx', string.format('%.0f-%.0f', j.cursor, j.n - 1))
  end
  j.fate, j.unfit, j.wait = 0, 0, 0
  redis.call('HDEL', key('j', j.id), 'why')
  redis.call('UNLINK', key('unfit', j.id), key('again', j.id))
  -- What its conditions came to meanwhile was not counted.
  if j.dep > 0 then
    j.dep = tonumber(redis.call('HGET', key('j', j.id), 'asked'))
    push_todo('enroll', j.id, 0, 1, '')
  end
  return nil
end

-- One slice of what follows a job that was given up: "tell" its holders, or "lift" its fate;
-- returns (a, b, word, verb) of the record that goes on, or nil.
local function do_given_up(verb, j, a, b, word)
  if verb == 'tell' then
    bury(j)
    order_holders(j.id, cancel_order(j, 0, -1, word))
    return settle(j)
  end
  local after = lift_slice(j, a)
  local first, mask = string.match(word, '(%d+)(.*)')
  if not after and string.find(mask, '|' .. CA .. '|', 1, true) then pass_cancelled(j, tonumber(first), b) end
  settle(j)
  if after then return after, b, word, verb end
  return tonumber(first), b, mask, 'requeue'
end

local DEP = {kids = true, uses = true, enroll = true, weigh = true, rearm = true, line = true}

local function do_slice(verb, j, a, b, word)
  local after
  if verb == 'cancel' or verb == 'expire' then
    local waiting, running
    after, waiting, running = cancel_slice(j, a, b, verb == 'expire')
    if waiting > 0 then notice(j) end
    if verb == 'expire' and waiting > 0 then redis.call('HSET', key('j', j.id), 'why', word) end
    if running > 0 then
      bury(j)
      order_holders(j.id, cancel_order(j, a, after - 1, word))
    end
  elseif verb == 'requeue' then
    after = requeue_slice(j, a, b, word)
  end
  settle(j)
  offer(j)
  return after
end

-- One slice of a record about `j`; returns (a, b, word, verb) of what is left of it, or nil.
local function do_record(verb, j, a, b, word)
  if DEP[verb] then
    a, b, word = dep_slice(verb, j, a, b, word)
    return a, b, word, verb
  end
  spend(BUDGET)
  if verb == 'tell' or verb == 'lift' then return do_given_up(verb, j, a, b, word) end
  -- What was given up as a whole has nothing left to cancel or rerun.
  if j.fate ~= 0 then return end
  local after = do_slice(verb, j, a, b, word)
  if after > a and after <= math.min(b, j.cursor - 1) then return after, b, word, verb end
end

-- Do what one script may of the first records; returns how many are left. A record about a job
-- that is gone or is damaged is dropped.
local function do_todo()
  met, touched = {}, {}
  while spent < BUDGET do
    local record = redis.call('LINDEX', P .. 'todo', 0)
    if not record then break end
    local verb, id, a, b, word = string.match(record, '([^|]*)|([^|]*)|([^|]*)|([^|]*)|(.*)')
    local j, good = id and known(id), false
    spend(0.5)
    if j then good, a, b, word, verb = pcall(do_record, verb, j, tonumber(a), tonumber(b), word) end
    pcall(write_down)
    if good and a then
      redis.call('LSET', P .. 'todo', 0, table.concat({verb, id, string.format('%.0f', a),
        string.format('%.0f', b), word}, '|'))
    else redis.call('LPOP', P .. 'todo') end
  end
  return redis.call('LLEN', P .. 'todo')
end
