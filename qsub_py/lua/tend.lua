-- Do up to a few slices of unfinished fan-outs; the causer calls it until it is dry.
-- KEYS  meta
-- Returns how many records are left.
-- Replay: a slice is written together with where the next one begins.
--- @include head job node batch deps todo
tick()
return do_todo()
