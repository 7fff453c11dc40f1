<?php
// Waits until another program says that its database is finished, then reads it with PHP's own SQLite.
while (!is_file('/data/finished') || filesize('/data/finished') === 0) {
    usleep(50000);
    clearstatcache();
}
echo 'told: ', file_get_contents('/data/finished');
$rows = new PDO('sqlite:/data/rows.db');
$ids = $rows->query('SELECT id FROM run ORDER BY id')->fetchAll(PDO::FETCH_COLUMN);
echo 'rows: ', implode(' ', $ids), "\n";
echo 'integrity: ', $rows->query('PRAGMA integrity_check')->fetchColumn(), "\n";
