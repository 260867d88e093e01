//! Answers as brokers give them; connections are tried against a real broker in `tests/admin.rs`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use kafka_protocol::messages::describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsTopic};

use super::*;

fn result(total: i64, usable: i64, sizes: &[(i32, i64, bool)]) -> DescribeLogDirsResult {
    let partition = |(number, size, is_future): &(i32, i64, bool)| {
        DescribeLogDirsPartition::default().with_partition_index(*number).with_partition_size(*size).with_is_future_key(*is_future)
    };
    let topic = DescribeLogDirsTopic::default()
        .with_name(TopicName(StrBytes::from("events")))
        .with_partitions(sizes.iter().map(partition).collect());
    DescribeLogDirsResult::default().with_total_bytes(total).with_usable_bytes(usable).with_topics(vec![topic])
}

fn response(results: Vec<DescribeLogDirsResult>) -> DescribeLogDirsResponse {
    DescribeLogDirsResponse::default().with_results(results)
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: "events".into(), partition }
}

fn seen(brokers: Vec<Result<Vec<LogDir>, LogDirsError>>) -> LogDirs {
    LogDirs { brokers: brokers.into_iter().enumerate().map(|(id, answer)| (id as i32, answer)).collect() }
}

#[test]
fn the_fullest_disk_counts_and_each_replica_is_its_brokers() {
    let dirs = |results| answered(response(results), 4);
    let both = seen(vec![
        dirs(vec![result(1000, 500, &[(0, 70, false), (1, 5, true)]), result(1000, 199, &[(1, 80, false)])]),
        dirs(vec![result(1000, 400, &[(0, 71, false)])]),
    ]);
    assert_eq!(both.used_percent(), Some(81), "rounded up");
    assert_eq!((both.replica_bytes(0, &at(0)), both.replica_bytes(1, &at(0))), (Some(70), Some(71)));
    assert_eq!((both.replica_bytes(0, &at(1)), both.replica_bytes(1, &at(1))), (Some(80), None));
}

#[test]
fn what_some_broker_does_not_say_is_not_known() {
    let known = || answered(response(vec![result(1000, 500, &[])]), 4);
    assert_eq!(LogDirs::default().used_percent(), None);
    assert_eq!(seen(vec![known()]).used_percent(), Some(50));
    assert_eq!(seen(vec![known(), answered(response(vec![result(-1, -1, &[])]), 3)]).used_percent(), None, "before 3.3");
    assert_eq!(seen(vec![known(), Err(LogDirsError::Denied)]).used_percent(), None);
    let refused = |code: i16| answered(response(vec![]).with_error_code(code), 4);
    assert!(matches!(refused(31), Err(LogDirsError::Denied)));
    assert!(matches!(refused(56), Err(LogDirsError::Refused(ResponseError::KafkaStorageError))));
    assert!(matches!(answered(response(vec![]), 1), Err(LogDirsError::Denied)), "before refusals were said");
    assert!(answered(response(vec![]), 4).is_ok());
}

#[test]
fn a_broker_that_says_nothing_costs_the_deadline_and_no_more() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = BrokerNode { id: 1, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let config = KafkaConfig { bootstrap_servers: vec![], security: Default::default(), credentials_dir: None };
    let begun = Instant::now();
    let found = ask(&config, &[broker], &request(BTreeMap::new()), begun + Duration::from_millis(200));
    assert!(matches!(found.brokers[&1], Err(LogDirsError::Io(_))));
    assert!(begun.elapsed() < Duration::from_secs(2));
}
