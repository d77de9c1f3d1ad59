--[[
Purpose: take amounts from the credit; a negative amount gives back.

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
Returns: a list, for each request one: OK <credit left>
Errors: in the place of the request
  Blocked
  BelowFloor <credit> <floor>
  OutOfRange <balance>
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'DebitBalance', 4
--@include _begin.lua
--@include _blocked.lua
    local left = credit - amount
    if refusal then
      left = credit
    elseif has_floor == 1 and amount > 0 and left < min_credit then
      refusal = 'BelowFloor ' .. format('%.0f %.0f', credit, min_credit)
    elseif left > LIMIT or left < -LIMIT then
      refusal = 'OutOfRange credit'
    end
--@include _refuse.lua
    credit = left
    local result, extra, behind = format('%.0f', left), NONE, ''
--@include _journal.lua
--@include _commit.lua
--@include _finish.lua
