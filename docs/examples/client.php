<?php
// A billing system's side in PHP, without packages: the HTTP interface.
//
//   php client.php http://127.0.0.1:8000

declare(strict_types=1);

final class RatelError extends Exception
{
    public function __construct(public readonly string $name, string $message)
    {
        parent::__construct($message);
    }
}

/** One request; a change that carries a key happens once, however often it is sent. */
function ratel(string $base, string $method, array $parameters, string $key = ''): mixed
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => "Content-Type: application/json\r\n" . ($key === '' ? '' : "Idempotency-Key: $key\r\n"),
        'content' => json_encode($parameters, JSON_THROW_ON_ERROR),
        'ignore_errors' => true,
        'timeout' => 10,
    ]]);
    $body = file_get_contents("$base/$method", false, $context);
    if ($body === false) {
        throw new RatelError('connection_lost', 'no answer: send it again with the same key');
    }
    $answer = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
    if (is_array($answer) && isset($answer['error'])) {
        throw new RatelError($answer['error']['name'], $answer['error']['message']);
    }
    return $answer;
}

$base = $argv[1] ?? 'http://127.0.0.1:8000';
$call = ['cstmid' => 'vdf', 'subj' => 'rif', 'dest' => '0256308200'];
$hour = ['start' => '2012-02-02T17:30:00Z', 'end' => '2012-02-02T18:30:00Z'];

echo 'may talk, seconds: ', ratel($base, 'getmaxsessiontime', $call + ['amount' => 3600]), "\n";
$cost = ratel($base, 'getcost', $call + $hour);
echo 'cost, cents: ', $cost['Cost'], ' in ', count($cost['Timespans']), " spans\n";

$key = 'php-' . bin2hex(random_bytes(8));
$left = ratel($base, 'debitbalance', $call + ['amount' => 1.5], $key);
$again = ratel($base, 'debitbalance', $call + ['amount' => 1.5], $key);
echo 'repeated, the same credit is left: ', $left === $again ? 'true' : 'false', "\n";

try {
    ratel($base, 'debitbalance', ['subj' => 'nobody', 'amount' => 1] + $call);
} catch (RatelError $error) {
    echo 'refused: ', $error->name, "\n";
}
