-- Append the events of one camera that its stream lacks, and advance the checkpoint, atomically.
--
-- KEYS  stream, producer hash, status hash (all of one camera: one cluster slot; a replay has no
--       status and passes its producer hash twice)
-- ARGV  claim ('' for live; for a replay the claim in its producer hash), owner ('': not checked),
--       maxlen (0: do not trim), then per event, oldest first: epoch, seq, id, type, JSON, state, reason
--       (state and reason are '' unless the event reports the camera's state)
-- Returns the number of events appended; -1 if another producer owns the stream; for a replay, -2 if
-- Redis has lost events that it had confirmed (restored from older data), -3 if it has lost all;
-- -4 if the producer hash holds no valid numbers; -5 if the camera belongs to another owner (own.lua).
-- One call may carry several epochs: in a retry, the older ones are duplicates. The stream belongs to
-- another producer only if even the newest epoch is below the one in the hash.
if redis.replicate_commands then
  redis.replicate_commands()  -- for Redis before 7 with lua-replicate-commands off: ids of entries vary
end

local stream, producer, status = KEYS[1], KEYS[2], KEYS[3]
local claim, owner, maxlen = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first, fields = 4, 7
local newest_epoch = tonumber(ARGV[#ARGV - fields + 1])

local held = redis.call('HMGET', producer, 'epoch', 'seq', 'claim', 'owner')
local last_epoch, last_seq = tonumber(held[1] or -1), tonumber(held[2] or -1)
if not last_epoch or not last_seq then
  return -4
end
if owner ~= '' and (held[4] or '') ~= '' and held[4] ~= owner then
  return -5
end
if claim ~= '' and not held[1] then
  return -3
end
if newest_epoch < last_epoch or (held[3] or '') ~= claim then
  return -1
end
if claim ~= '' and tonumber(ARGV[first + 1]) > last_seq + 1 then
  return -2
end

if claim == '' then
  redis.call('HMGET', status, 'state')  -- a key of a wrong type fails here, before any write
end

local appended = 0
for i = first, #ARGV, fields do
  local epoch, seq = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  if epoch > last_epoch or (epoch == last_epoch and seq > last_seq) then
    if maxlen > 0 then
      redis.call('XADD', stream, 'MAXLEN', '~', maxlen, '*',
        'id', ARGV[i + 2], 'type', ARGV[i + 3], 'event', ARGV[i + 4])
    else
      redis.call('XADD', stream, '*',
        'id', ARGV[i + 2], 'type', ARGV[i + 3], 'event', ARGV[i + 4])
    end
    -- After the entry: a stream of a wrong type must not leave its state in the hash.
    if ARGV[i + 5] ~= '' then
      if claim == '' then
        redis.call('HSET', status, 'state', ARGV[i + 5], 'reason', ARGV[i + 6],
          'epoch', ARGV[i], 'seq', ARGV[i + 1])
      else
        redis.call('HSET', producer, 'state', ARGV[i + 5])
      end
    end
    last_epoch, last_seq = epoch, seq
    appended = appended + 1
  end
end
redis.call('HSET', producer, 'epoch', string.format('%.0f', last_epoch),
  'seq', string.format('%.0f', last_seq))
return appended
