resource "google_project_service" "needed" {
  for_each = toset([
    "compute.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "monitoring.googleapis.com",
    "redis.googleapis.com",
    "secretmanager.googleapis.com",
    "servicenetworking.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

resource "google_compute_network" "main" {
  name                    = var.name
  auto_create_subnetworks = false
  depends_on              = [google_project_service.needed]
}

# No instance has an external address. Google's services are reached inside Google's network; Debian's packages and the
# package index through the NAT below.
resource "google_compute_subnetwork" "main" {
  name                     = var.name
  network                  = google_compute_network.main.id
  region                   = var.region
  ip_cidr_range            = var.subnet_range
  private_ip_google_access = true
}

resource "google_compute_router" "main" {
  name    = var.name
  network = google_compute_network.main.id
  region  = var.region
}

resource "google_compute_router_nat" "main" {
  name                               = var.name
  router                             = google_compute_router.main.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# Where Cloud SQL and Memorystore live: peered with the network, without public addresses.
resource "google_compute_global_address" "services" {
  name          = "${var.name}-services"
  network       = google_compute_network.main.id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  prefix_length = 20
}

resource "google_service_networking_connection" "services" {
  network                 = google_compute_network.main.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.services.name]
}

# Port 5000 hears the balancer's proxies and health checks ...
resource "google_compute_firewall" "balancer" {
  name                    = "${var.name}-balancer"
  network                 = google_compute_network.main.id
  direction               = "INGRESS"
  source_ranges           = ["130.211.0.0/22", "35.191.0.0/16"]
  target_service_accounts = [google_service_account.role["web"].email]

  allow {
    protocol = "tcp"
    ports    = ["5000"]
  }
}

# ... and what comes through the internal balancer, which keeps the sender's address: workers' reports, the queue's depth.
resource "google_compute_firewall" "inside" {
  name                    = "${var.name}-inside"
  network                 = google_compute_network.main.id
  direction               = "INGRESS"
  source_service_accounts = [google_service_account.role["worker"].email, google_service_account.role["sweeper"].email]
  target_service_accounts = [google_service_account.role["web"].email]

  allow {
    protocol = "tcp"
    ports    = ["5000"]
  }
}

resource "google_compute_firewall" "ssh" {
  count         = var.ssh_from_iap ? 1 : 0
  name          = "${var.name}-ssh"
  network       = google_compute_network.main.id
  direction     = "INGRESS"
  source_ranges = ["35.235.240.0/20"]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

# A worker opens files that strangers made. It may speak to Redis and the API inside, and HTTP(S) outside; nothing else.
# No rule of a network can close the way to the metadata server: the worker takes sockets of every kind from ffmpeg
# instead, before it reads the first byte.
resource "google_compute_firewall" "worker_out" {
  name                    = "${var.name}-worker-out"
  network                 = google_compute_network.main.id
  direction               = "EGRESS"
  priority                = 1000
  destination_ranges      = ["${google_redis_instance.main.host}/32", "${google_compute_address.internal.address}/32"]
  target_service_accounts = [google_service_account.role["worker"].email]

  allow {
    protocol = "tcp"
    ports    = [tostring(google_redis_instance.main.port), "5000"]
  }
}

resource "google_compute_firewall" "worker_private" {
  name                    = "${var.name}-worker-private"
  network                 = google_compute_network.main.id
  direction               = "EGRESS"
  priority                = 1100
  destination_ranges      = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
  target_service_accounts = [google_service_account.role["worker"].email]

  deny {
    protocol = "all"
  }
}

resource "google_compute_firewall" "worker_packages" {
  name                    = "${var.name}-worker-packages"
  network                 = google_compute_network.main.id
  direction               = "EGRESS"
  priority                = 1200
  destination_ranges      = ["0.0.0.0/0"]
  target_service_accounts = [google_service_account.role["worker"].email]

  allow {
    protocol = "tcp"
    ports    = ["80", "443"]
  }
}

resource "google_compute_firewall" "worker_rest" {
  name                    = "${var.name}-worker-rest"
  network                 = google_compute_network.main.id
  direction               = "EGRESS"
  priority                = 65000
  destination_ranges      = ["0.0.0.0/0"]
  target_service_accounts = [google_service_account.role["worker"].email]

  deny {
    protocol = "all"
  }
}
