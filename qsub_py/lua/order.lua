-- Tell the nodes that hold a job something (signal, suspend, resume, tail), or one node.
-- KEYS  meta
-- ARGV  job or '', node uid or '', order (JSON)
-- Returns pairs node uid, sequence number. Replay: told twice; every order can be obeyed twice.
--- @include head job node batch deps todo
tick()
if ARGV[2] ~= '' then return {ARGV[2], order(ARGV[2], ARGV[3])} end
return order_holders(ARGV[1], ARGV[3])
