-- Claim a camera's replay stream for one recording, model and set of settings.
--
-- KEYS  stream, producer hash
-- ARGV  claim, restart ('1': forget what an earlier replay left), then field and value pairs that
--       say in the producer hash what the claim is made of
-- Returns {last seq, finished ('1' or '0')}, or the fields of the claim that stands in the way.
local stream, producer = KEYS[1], KEYS[2]

if ARGV[2] == '1' then
  redis.call('XTRIM', stream, 'MAXLEN', 0)  -- and not DEL: consumer groups stay
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
