--[[
Purpose: take an amount from the SMS budget; a negative amount gives back.

KEYS:
  1  HASH    account
  2  STREAM  journal
  3  STRING  token
ARGV:
  1  fingerprint of the request
  2  how long the token lives, ms
  3  deadline on the store's clock, µs; 0 is none
  4  about how many journal lines are kept
  5  token, for the journal
  6  amount, micros
Returns: OK <SMS left>
Errors:
  InsufficientSms <SMS>
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
--@include _begin.lua
--@include _balances.lua
local op, extra = 'DebitSMS', {}
local left = sms - amount
if amount > 0 and left < 0 then
  refusal = 'InsufficientSms ' .. sms
elseif left > LIMIT or left < -LIMIT then
  refusal = 'OutOfRange sms'
end
--@include _refuse.lua
sms = string.format('%.0f', left)
local result = sms
--@include _journal.lua
call('HSET', KEYS[1], 'seq', seq, 'sms', sms)
--@include _finish.lua
