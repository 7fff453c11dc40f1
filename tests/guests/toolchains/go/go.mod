module coracle.test/server

go 1.24
