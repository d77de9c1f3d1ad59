--[[
Purpose: take amounts from the SMS budget; a negative amount gives back.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request four
  1  about how many journal lines are kept
  2  amount, micros
  3  destination without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
Returns: a list, for each request one: OK <SMS left>
Errors: in the place of the request
  Blocked
  InsufficientSms <SMS>
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'DebitSMS', 4
--@include _begin.lua
--@include _blocked.lua
    local left = sms - amount
    if refusal then
      left = sms
    elseif amount > 0 and left < 0 then
      refusal = 'InsufficientSms ' .. format('%.0f', sms)
    elseif left > LIMIT or left < -LIMIT then
      refusal = 'OutOfRange sms'
    end
--@include _refuse.lua
    sms = left
    local result, extra, behind = format('%.0f', left), NONE, ''
--@include _journal.lua
--@include _commit.lua
--@include _finish.lua
