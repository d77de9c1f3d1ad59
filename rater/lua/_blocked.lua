-- Shared by the debits, first of their checks: a blocked account gives nothing, and takes what is given back.
    if blocked and amount > 0 then
      refusal = 'Blocked'
    end
