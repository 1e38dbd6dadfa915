-- Claim a camera's replay stream for one recording, model and set of settings.
--
-- KEYS  stream, producer hash
-- ARGV  claim, restart ('1': delete what an earlier replay left), then the parts of the claim as
--       field and value pairs for the producer hash
-- Returns {last seq, finished ('1' or '0')}, or {recording, model, settings} of a conflicting claim.
local stream, producer = KEYS[1], KEYS[2]

if ARGV[2] == '1' then
  redis.call('XTRIM', stream, 'MAXLEN', 0)  -- not DEL, which would delete consumer groups
  redis.call('DEL', producer)
end
local held = redis.call('HMGET', producer, 'claim', 'seq')
if held[1] and held[1] ~= ARGV[1] then
  return redis.call('HMGET', producer, 'recording', 'model', 'settings')
end
if not held[1] then
  redis.call('HSET', producer, 'claim', ARGV[1], 'epoch', '0', 'seq', '-1', unpack(ARGV, 3))
  return {'-1', '0'}
end
local finished = redis.call('HGET', producer, 'state') == 'ended'
return {held[2], finished and '1' or '0'}
