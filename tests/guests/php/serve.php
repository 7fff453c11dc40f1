<?php
// Answers the requests that lie in /exchange with what page.php says to them, until it is ended. This PHP has no sockets.

function answer(string $request): string
{
    [$head, $body] = explode("\r\n\r\n", $request, 2);
    [$method, $target] = explode(' ', $head, 3);
    $_SERVER['REQUEST_METHOD'] = $method;
    $_SERVER['REQUEST_URI'] = $target;
    parse_str((string) parse_url($target, PHP_URL_QUERY), $_GET);
    parse_str($body, $_POST);
    http_response_code(200);
    ob_start();
    try {
        include '/site/page.php';
    } catch (Throwable $error) {
        http_response_code(500);
        echo get_class($error), ': ', $error->getMessage();
    }
    $page = ob_get_clean();
    $status = http_response_code();
    return "HTTP/1.1 $status -\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: " . strlen($page)
        . "\r\nConnection: close\r\n\r\n$page";
}

while (true) {
    foreach (glob('/exchange/*.request') as $file) {
        $answer = answer(file_get_contents($file));
        unlink($file);
        // Whoever waits must not see half of it.
        $new = preg_replace('/request$/', 'new', $file);
        file_put_contents($new, $answer);
        rename($new, preg_replace('/request$/', 'answer', $file));
    }
    usleep(2000);
}
