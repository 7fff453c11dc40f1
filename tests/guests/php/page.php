<?php
// A guest book on a volume: GET / shows it, POST / adds an entry, anything else is not there.
if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) !== '/') {
    http_response_code(404);
    echo 'no such page';
    return;
}
$book = new PDO('sqlite:/data/book.db');
$book->exec('CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, name TEXT NOT NULL)');
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $book->prepare('INSERT INTO entry (name) VALUES (?)')->execute([$_POST['name'] ?? null]);
}
$names = $book->query('SELECT name FROM entry ORDER BY id')->fetchAll(PDO::FETCH_COLUMN);
?>
<title>Guest book of <?= htmlspecialchars($_GET['of'] ?? 'nobody') ?>, <?= count($names) ?> names</title>
<?php foreach ($names as $number => $name): ?>
<li><?= $number + 1 ?>. <?= htmlspecialchars(mb_strtoupper($name)) ?></li>
<?php endforeach ?>
<p>Written by PHP <?= PHP_VERSION ?></p>
