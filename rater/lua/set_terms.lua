--[[
Purpose: change what an operator decides about an account: its type, floor, reset day, tariff plan, and
whether it is blocked. Balances and buckets stay. What is told to stay is given as an empty text.

KEYS:
  1  STRING  account
  2  STREAM  journal
ARGV:
  1  about how many journal lines are kept
  2  token, for the journal
  3  1 for postpaid, 0 for prepaid
  4  the floor, micros, or none
  5  day of the month for the reset, 0 is none
  6  the plan's id behind an equals sign
  7  1 to block, 0 to unblock
Returns: Changed, Same or UnknownSubject
Errors: none
]]
local call = redis.call
local format, sub = string.format, string.sub
local MAGIC = 'RATELac1' -- of a value that is an account, in this format
local known = call('GET', KEYS[1])
if not known then
  return 'UnknownSubject'
end
if #known < 72 or sub(known, 1, 8) ~= MAGIC then
  return {err = 'ERR the account holds something else'}
end
local seq = struct.unpack('<i8', known, 9)
local min_credit, reset_day, flags, has_floor, count, plan_size = struct.unpack('<i8BBBBI4', known, 57)
if 72 + plan_size > #known then
  return {err = 'ERR the account holds something else'}
end
local plan, buckets = sub(known, 73, 72 + plan_size), sub(known, 73 + plan_size)
local postpaid, blocked = flags % 2, math.floor(flags / 2)
if ARGV[3] ~= '' then postpaid = tonumber(ARGV[3]) end
if ARGV[4] == 'none' then
  min_credit, has_floor = 0, 0
elseif ARGV[4] ~= '' then
  min_credit, has_floor = tonumber(ARGV[4]), 1
end
if ARGV[5] ~= '' then reset_day = tonumber(ARGV[5]) end
if ARGV[6] ~= '' then plan = sub(ARGV[6], 2) end
if ARGV[7] ~= '' then blocked = tonumber(ARGV[7]) end
local rest = struct.pack('<i8BBBBI4', min_credit, reset_day, postpaid + 2 * blocked, has_floor, count, #plan)
  .. plan .. buckets
if rest == sub(known, 57) then
  -- Who waits for the replicas or the disk waits for the last write of this connection: there must be one.
  call('SETRANGE', KEYS[1], 0, MAGIC)
  return 'Same'
end
local balances = struct.pack('<i8', seq + 1) .. sub(known, 17, 56)
local floor = has_floor == 1 and format('%.0f', min_credit) or 'none'
local kind = postpaid == 1 and 'postpaid' or 'prepaid'
local terms = kind .. ' floor=' .. floor .. format(' reset_day=%.0f blocked=%.0f plan=', reset_day, blocked) .. plan
-- First what a store without memory refuses: it lets a script go on that has begun to write.
call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'did', 'SetTerms 0 ' .. ARGV[2],
  'after', balances, 'terms', terms)
call('SET', KEYS[1], MAGIC .. balances .. rest)
return 'Changed'
