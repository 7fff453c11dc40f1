// An HTTP handler: GET / says who answers, POST /echo sends the body back. The host serves it; an instance per request.

async function answer(request) {
    const path = new URL(request.url).pathname;
    if (request.method === "GET" && path === "/") {
        return new Response("hello from javascript\n");
    }
    if (request.method === "POST" && path === "/echo") {
        return new Response(await request.arrayBuffer());
    }
    return new Response("", { status: 404 });
}

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));
