//! What those who ask what they may do are told.

use super::*;
use crate::identity::Identity;

const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn server_for(identity: Identity) -> Server {
    let server = Server::new().await;
    let authenticator = Authenticator::new().with_token(TOKEN, identity);
    Server { router: routes(Arc::clone(&server.door), Arc::new(authenticator)), ..server }
}

async fn may(server: &Server, attributes: Value) -> bool {
    let review = server.must("POST", ACCESS, &json!({"spec": {"resourceAttributes": attributes}})).await;
    assert_eq!(
        (&review["kind"], &review["spec"]["resourceAttributes"]),
        (&json!("SelfSubjectAccessReview"), &attributes)
    );
    review["status"]["allowed"].as_bool().unwrap()
}

#[tokio::test]
async fn answers_are_those_of_the_decision_itself() {
    let admin = Server::new().await;
    let delete = json!({"verb": "delete", "resource": "nodes"});
    assert!(
        may(&admin, delete.clone()).await && may(&admin, json!({"verb": "*", "group": "*", "resource": "*"})).await
    );

    let pod = |node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node, "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "a", "image": "a"}]}})
    };
    let node = server_for(Identity::node("one")).await;
    let as_admin = Server { router: routes(Arc::clone(&node.door), testing::authenticator()), ..node };
    for name in ["one", "two"] {
        as_admin.must("POST", PODS, &pod(name)).await;
    }
    let node = Server { router: routes(Arc::clone(&as_admin.door), authenticator("one")), ..as_admin };
    assert!(!may(&node, delete).await);
    assert!(!may(&node, json!({"verb": "list", "resource": "services"})).await);
    assert!(may(&node, json!({"verb": "create", "resource": "events", "namespace": "default"})).await);
    for (name, expected) in [("one", true), ("two", false)] {
        let attributes = json!({"verb": "update", "resource": "pods", "subresource": "status", "namespace": "default", "name": name});
        assert_eq!(may(&node, attributes).await, expected, "{name}");
    }
    let (status, stored) = node.get(ACCESS).await;
    assert_eq!(status, 405, "{stored}");
}

fn authenticator(node: &str) -> Arc<Authenticator> {
    Arc::new(Authenticator::new().with_token(TOKEN, Identity::node(node)))
}

#[tokio::test]
async fn who_one_is_and_what_one_may_look_at() {
    let node = server_for(Identity::node("one")).await;
    let who = node.must("POST", SELF, &json!({})).await;
    assert_eq!(who["status"]["userInfo"]["username"], "system:node:one");
    assert!(who["status"]["userInfo"]["groups"].as_array().unwrap().contains(&json!("system:nodes")));
    let look = |verb: &str, path: &str| json!({"spec": {"nonResourceAttributes": {"verb": verb, "path": path}}});
    for (verb, path, expected) in [
        ("get", "/readyz", true),
        ("get", "/apis", true),
        ("post", "/apis", false),
        ("get", "/nothing", false),
        ("get", PODS, false),
    ] {
        let review = node.must("POST", ACCESS, &look(verb, path)).await;
        assert_eq!(review["status"]["allowed"], expected, "{verb} {path}");
    }
    let rules = node.must("POST", RULES, &json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(rules["status"]["incomplete"], true, "what is a node's own depends on the objects");
    let listed = json!({"verbs": ["create", "update", "patch"], "apiGroups": [""], "resources": ["events"]});
    assert!(rules["status"]["resourceRules"].as_array().unwrap().contains(&listed), "{rules}");
    let admin = Server::new().await;
    let rules = admin.must("POST", RULES, &json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(
        (&rules["status"]["resourceRules"][0]["verbs"][0], &rules["status"]["incomplete"]),
        (&json!("*"), &json!(false))
    );
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let server = Server::new().await;
    let both = json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
    for (path, body, expected) in [
        (ACCESS, json!({}), 422),
        (ACCESS, both, 422),
        (ACCESS, json!([]), 400),
        (RULES, json!({"spec": {}}), 400),
        ("/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({}), 404),
    ] {
        let (status, answer) = server.call("POST", path, &body).await;
        assert_eq!(status, expected, "{path} {body} {answer}");
    }
    // What takes more memory than it has bytes is as bounded as in objects.
    let (status, answer) = server.call("POST", SELF, &json!({"spec": vec![json!([]); 300_000]})).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("BadRequest")));
}
